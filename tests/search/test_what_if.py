"""What a network that somebody thinks of would reach and cost, from the trials of a run."""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, sample_record
from nas.dashboard.asked.what_if import Asked, form
from nas.measure.cases import parts_of_space
from nas.measure.cost import num_macs, num_params
from nas.measure.latency_table import LatencyTable
from nas.networks.model import build_model
from nas.runs.reader import RunReader
from nas.runs.record import write_record
from nas.search.audit.predictions import predictions
from nas.search.audit.what_if import WhatIf
from nas.search.surrogate.known_costs import KnownCosts
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

COUNT, UNSEEN, CLASSES, SIDE = 80, 12, 10, 32
CONFIG = experiment(constraints={"num_params": {"max": 1e6}})
SPACE = SearchSpace(CONFIG.space)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Random networks with the sample's figures; of the first, what is counted is that of the networks."""
    folder = make_run(tmp_path_factory.mktemp("what_if") / "run", 0, CONFIG)
    counted = KnownCosts(SPACE, SIDE, 1, CLASSES)
    for number in range(COUNT):
        record = sample_record(SPACE, number)
        write_record(folder, replace(record, costs=record.costs | (counted(record.params) if number < 5 else {})))
    return folder


@pytest.fixture(scope="module")
def what_if(run_dir):
    return WhatIf(RunReader(run_dir).refresh())


def test_what_needs_no_training_is_exact_and_the_rest_has_intervals_that_hold(what_if):
    inside = {"top1": 0, "latency_ms": 0}
    for number in range(COUNT, COUNT + UNSEEN):
        truth = sample_record(SPACE, number)
        found = what_if.answer(truth.params)
        assert found["problems"] == [] and found["trial"] is None
        for name in inside:
            guess = found["predicted"][name]
            assert not guess["exact"]
            inside[name] += abs(guess["value"] - truth.objectives[name]) <= guess["margin"]
    assert min(inside.values()) >= 0.8 * UNSEEN, inside
    model = build_model(Genotype.from_dict(truth.genotype), CLASSES, 1)
    counted = {"num_params": num_params(model), "num_macs": num_macs(model, (1, SIDE, SIDE))}
    assert {name: found["predicted"][name] for name in counted} == {
        name: {"value": value, "margin": 0.0, "exact": True} for name, value in counted.items()
    }


def test_a_network_that_was_trained_shows_its_trial(what_if, run_dir):
    record = RunReader(run_dir).refresh().record(5)
    found = what_if.answer(record.params)
    assert found["trial"]["number"] == 5 and found["trial"]["values"]["top1"] == record.objectives["top1"]


def test_broken_limits_are_said(what_if):
    sizes = {}
    for number in range(8):
        record = sample_record(SPACE, number)
        found = what_if.answer(record.params)
        sizes[found["predicted"]["num_params"]["value"]] = found["limits"]
    assert min(sizes) < 1e6 < max(sizes)
    assert all((size > 1e6) == bool(limits) for size, limits in sizes.items())
    assert sizes[max(sizes)] == ["parameters is above the limit of the search, 1.000 M"]


def test_costs_that_were_counted_otherwise_are_predicted(tmp_path):
    """As by an earlier version, or of a network whose parts are not the package's."""
    folder = make_run(tmp_path / "run", 0)
    for number in range(30):
        write_record(folder, sample_record(SPACE, number))
    found = WhatIf(RunReader(folder).refresh()).answer(sample_record(SPACE, 99).params)
    costs = sample_record(SPACE, 99).costs
    for name in ("num_params", "num_macs"):
        guess = found["predicted"][name]
        assert not guess["exact"] and abs(guess["value"] - costs[name]) < 0.5 * costs[name]
    counted = KnownCosts(SPACE, SIDE, 1, CLASSES)
    for number in (0, 1, 2):
        record = sample_record(SPACE, number)
        costs = counted(record.params)
        write_record(folder, replace(record, costs=record.costs | costs | {"num_macs": 2 * costs["num_macs"]}))
    found = WhatIf(RunReader(folder).refresh()).answer(sample_record(SPACE, 99).params)
    assert not any(guess["exact"] for guess in found["predicted"].values())


def test_latency_begins_with_the_table_of_parts_that_the_run_has(tmp_path):
    stage = {"block": "basic", "depth": [1, 2], "width": [16, 32, 48]}
    operators = {"conv3": {"op": "conv", "kernel_size": 3}, "conv5": {"op": "conv", "kernel_size": 5}}
    small = {"stem": "small", "operators": operators, "stages": [stage] * 3}
    config = experiment(space=small, search={"sampler": "surrogate", "num_trials": 16})
    space, draw = SearchSpace(config.space), random.Random(3)
    parts = {str(part): draw.uniform(0.1, 4.0) for part in parts_of_space(space, 1, SIDE)}
    table = LatencyTable(1, SIDE, parts, 0.0, None)

    def measured(number):
        record = sample_record(space, number)
        latency = {"latency_ms": 1.3 * table.total(Genotype.from_dict(record.genotype)) * (1 + 0.01 * (number % 3 - 1))}
        return replace(record, objectives=record.objectives | latency, costs=record.costs | latency)

    folder, errors = make_run(tmp_path / "run", 0, config), {}
    for number in range(16):
        write_record(folder, measured(number))
    for name in (None, "latency_table.json"):
        if name:
            (folder / name).write_text(json.dumps({"about": {}, "parts": parts}), encoding="utf-8")
        run = RunReader(folder).refresh()
        told = predictions(run)
        assert told
        guesses = [WhatIf(run).answer(measured(number).params)["predicted"]["latency_ms"] for number in (50, 51)]
        values = [measured(number).objectives["latency_ms"] for number in (50, 51)]
        errors[name] = [abs(guess["value"] / value - 1) for guess, value in zip(guesses, values, strict=True)]
        errors[name].append(told["objectives"]["latency_ms"]["median_error"] / np.mean(values))
    assert max(errors["latency_table.json"]) < 0.03 < min(errors[None]), errors


def test_impossible_choices_are_said_with_the_reason(tmp_path):
    space = {
        "stem": "small",
        "operators": {
            "dw3": {"op": "conv", "kernel_size": 3, "groups": "depthwise"},
            "conv3": {"op": "conv", "kernel_size": 3},
        },
        "stages": [{"block": ["inverted_residual", "basic"], "depth": [1, 2], "width": [16, 32]}],
    }
    config = experiment(space=space)
    made = SearchSpace(config.space)
    folder = make_run(tmp_path / "run", 12, config)
    what_if = WhatIf(RunReader(folder).refresh())
    params = made.choices()
    chosen = {name: values[0] for name, values in params.items()}
    slot = next(name for name in chosen if name.endswith(".operator.inverted_residual"))
    (said,) = what_if.answer(chosen | {"stages.0.block": "inverted_residual", slot: "conv3"})["problems"]
    assert said.startswith("stage 1: conv3 fits no inverted residual block: ")
    assert what_if.answer(chosen | {"stages.0.width": 24})["problems"] == [
        "stage 1: 24 is not offered by this space; it has 16, 32"
    ]
    assert what_if.answer({"stages.0.block": "basic"})["problems"] != []
    wrong: list[Any] = [[], None, 10**12, "2"]
    for depth in wrong:
        assert "is not offered" in what_if.answer(chosen | {"stages.0.depth": depth})["problems"][0]


def test_the_form_begins_with_a_trial_and_says_where_one_is_of_another_space(run_dir, tmp_path):
    run = RunReader(run_dir).refresh()
    found, record = form(run, 3), run.record(3)
    assert found["params"] == record.params and found["labels"] == list(CONFIG.space.operators)
    second = found["stages"][1]
    assert second["operators"].keys() == {"bottleneck", "gated"}
    assert [len(names) for names in second["operators"].values()] == [4, 4]  # blocks of the greatest depth
    folder = make_run(tmp_path / "run", 3)
    # as one that the search was told to begin with
    write_record(folder, replace(sample_record(SPACE, 3), params={}))
    other = sample_record(SPACE, 4)
    changed = json.loads(json.dumps(other.genotype).replace('"width": 64', '"width": 80'))
    write_record(folder, replace(other, params={}, genotype=changed))
    run = RunReader(folder).refresh()
    assert SPACE.decode(form(run, 3)["params"]).to_dict() == sample_record(SPACE, 3).genotype
    assert form(run, 4)["problem"].startswith("trial 4 is not of the space that the run searched: ")
    with pytest.raises(KeyError):
        form(run, 77)


def test_a_process_answers_and_comes_again_when_it_was_killed(run_dir, what_if, tmp_path):
    asked, params = Asked(run_dir), sample_record(SPACE, COUNT).params
    expected = json.loads(json.dumps(what_if.answer(params)))
    first = asked.answer(params)
    assert np.isclose(first["predicted"]["top1"]["value"], expected["predicted"]["top1"]["value"])
    assert first["predicted"]["num_params"] == expected["predicted"]["num_params"]
    assert asked._process
    process = asked._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    again = asked._running()
    assert again is not process and again.stdin
    again.stdin.close()  # as when the server ends, however that happens
    assert again.wait(60) == 0
    (tmp_path / "trials").mkdir()
    assert "resolved.yaml" in Asked(tmp_path).answer(params)["failed"]
