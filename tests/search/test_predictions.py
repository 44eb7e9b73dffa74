"""What the surrogate's model predicts of trials that it has not seen, beside what was measured of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, sample_record
from helpers.searches import ended
from nas.runs.reader import RunReader
from nas.runs.record import write_record
from nas.search.audit.predictions import predictions
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
COUNT, ODD = 80, 60


def run_of(folder, sampler):
    """Random networks; the latency of one is three times what it should be."""
    config = experiment(search={"sampler": sampler, "num_trials": COUNT})
    make_run(folder, 0, config)
    for number in range(COUNT):
        record = sample_record(SPACE, number)
        times = 3 if number == ODD else 1
        latency = {"latency_ms": times * record.objectives["latency_ms"]}
        write_record(folder, replace(record, objectives=record.objectives | latency))
    return folder


@pytest.fixture(scope="module")
def in_order(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("predictions") / "run", "surrogate")


def test_a_search_by_the_surrogate_is_predicted_from_what_had_ended_before(in_order, tmp_path):
    found = predictions(RunReader(in_order).refresh())
    assert found and found["in_order"] and found["objectives"].keys() == {"top1", "latency_ms"}
    latency = found["objectives"]["latency_ms"]
    numbers = [trial["number"] for trial in latency["trials"]]
    # a trial begins every ten seconds and takes twenty: the ninth is the first that began after six had ended
    assert numbers == list(range(8, COUNT))
    assert latency["misses"][0] == ODD, "three times the latency is the worst miss"
    # the last trials tell nothing of those before them
    for number in range(COUNT // 2, COUNT):
        record = sample_record(SPACE, number)
        write_record(in_order, replace(record, objectives={"top1": 0.1, "latency_ms": 50.0}))
    anew = predictions(RunReader(in_order).refresh())
    assert anew
    again = anew["objectives"]["latency_ms"]
    early = [
        [trial["predicted"] for trial in one["trials"] if trial["number"] <= COUNT // 2] for one in (latency, again)
    ]
    assert early[0] == early[1]


def test_other_searches_are_predicted_part_by_part(tmp_path, monkeypatch, capsys):
    folder = run_of(tmp_path / "run", "random")
    found = predictions(RunReader(folder).refresh())
    assert found and not found["in_order"]
    records = {number: sample_record(SPACE, number) for number in range(COUNT)}
    for name, of_objective in found["objectives"].items():
        trials = of_objective["trials"]
        assert {trial["number"] for trial in trials} == set(range(COUNT))
        measured = np.array([trial["measured"] for trial in trials])
        predicted, margins = (np.array([trial[what] for trial in trials]) for what in ("predicted", "margin"))
        kept = np.array([trial["number"] != ODD for trial in trials])
        values = np.array([records[trial["number"]].objectives[name] for trial in trials])
        assert np.array_equal(measured[kept], values[kept])
        assert np.corrcoef(predicted[kept], measured[kept])[0, 1] > (0.8 if name == "latency_ms" else 0.3)
        inside = np.mean(np.abs(measured - predicted) <= margins)
        assert of_objective["inside"] == pytest.approx(inside) and inside > 0.85
        assert f"tau {of_objective['tau']:.2f}" in of_objective["words"]
    latency = found["objectives"]["latency_ms"]
    assert latency["misses"][0] == ODD and "ranks networks well" in latency["words"]
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", str(folder), "--operators")
    assert code == 0 and "from nine tenths of the others" in said and f"trial {ODD}: " in said
    assert max(map(len, said.splitlines())) <= 100
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", str(folder), "--operators", "--json")
    assert json.loads(said)["predictions"] == json.loads(json.dumps(found))
