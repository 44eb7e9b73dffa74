"""What noise says of a front, replicates that no reader takes for trials, and the report with both."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, sample_record
from helpers.searches import ended
from nas.config.sections import ObjectiveConfig
from nas.runs.noise.model import judge
from nas.runs.noise.of_run import noise_of
from nas.runs.noise.replicates import (
    chosen,
    left_to_repeat,
    most_replicates,
    progress,
    read_replicates,
    replicate_dir,
)
from nas.runs.pareto import as_points
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord, read_records, write_record
from nas.runs.report import report
from nas.runs.report_picture import plot
from nas.runs.report_text import to_text
from nas.runs.status import run_status
from nas.space.search_space import SearchSpace

TWO = [ObjectiveConfig(name="top1"), ObjectiveConfig(name="num_params")]


def judged(top1, costs, num_images=400, further=None, keys=None):
    points = np.column_stack([-np.array(top1), np.array(costs)])
    objectives = [*TWO, ObjectiveConfig(name="num_macs")][: points.shape[1]]
    found = judge(keys or [str(at) for at in range(len(top1))], points, objectives, num_images, further)
    assert found is not None
    return found


def test_variances_are_pooled_and_blended_with_the_binomial_one():
    found = judged([0.8, 0.6, 0.7], [1, 2, 3], further={"0": [0.84], "1": [0.56, 0.64]})
    squares = 2 * 0.02**2 + 2 * 0.04**2
    assert found.noise.measured_sd == pytest.approx((squares / 3) ** 0.5) and found.noise.degrees == 3
    of_images = np.array([p * (1 - p) / 402 for p in ((m * 400 + 0.5) / 401 for m in (0.82, 0.6, 0.7))])
    of_seed = (2 * of_images.mean() + squares) / 5
    assert found.noise.seed_sd == pytest.approx(of_seed**0.5)
    assert found.error.tolist() == pytest.approx(np.sqrt(of_images + of_seed / [2, 3, 1]).tolist())
    assert found.mean.tolist() == pytest.approx([0.82, 0.6, 0.7]) and found.count.tolist() == [2, 3, 1]


def test_without_images_and_replicates_nothing_is_said():
    assert judge(["a", "b"], np.array([[-0.8, 1], [-0.9, 2]]), TWO, 0) is None
    assert judge(["a"], np.array([[1.0]]), TWO[1:], 400) is None
    assert judged([0.8, 0.9], [1, 2], 0, {"a": [0.81]}, ["a", "b"]).noise.seed_sd == pytest.approx(0.005 * 2**0.5)


def test_two_networks_are_on_the_front_as_probably_as_one_beats_the_other():
    found = judged([0.80, 0.82], [1, 2])
    beats = found.beats(1, 0)
    assert 0.6 < beats < 0.9 and found.beats(0, 1) == pytest.approx(1 - beats)
    assert found.on_front[0] == 1 and found.on_front[1] == pytest.approx(beats, abs=0.03)
    dearer = judged([0.82, 0.80], [1, 2])
    assert dearer.on_front[1] == pytest.approx(1 - beats, abs=0.03) and dearer.first_front.tolist() == [True, False]


def test_equal_costs_copies_and_hopeless_networks():
    equal = judged([0.8, 0.8], [1, 1])
    assert equal.on_front.tolist() == pytest.approx([0.5, 0.5], abs=0.04) and equal.on_front.sum() == 1
    copies = judged([0.8, 0.8, 0.2], [1, 1, 2], keys=["a", "a", "b"])
    assert copies.on_front.tolist() == [1, 1, 0] and copies.count.tolist() == [2, 2, 1]


def test_three_objectives_and_one():
    three = judged([0.8, 0.8, 0.9], [[1, 2], [2, 1], [3, 3]])
    assert three.on_front[:2].tolist() == [1, 1] and three.on_front[2] > 0.99
    alone = judged([0.80, 0.81], np.empty((2, 0)))
    assert alone.on_front.sum() == pytest.approx(1)


def test_intervals_hold_what_they_say():
    """Of networks of known accuracy, measured on as many images as here and with seeds that scatter as here."""
    draw = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        true = draw.uniform(0.6, 0.95, 20)
        of_images = draw.normal(true, np.sqrt(true * (1 - true) / 300))
        first, again = (of_images + draw.normal(0, 0.02, 20) for _ in range(2))
        further = {str(at): [float(again[at])] for at in range(4)}
        found = judged(first, np.arange(20.0), 300, further)
        ends = np.array([found.interval(at) for at in range(20)]).T
        inside += ((ends[0] <= true) & (true <= ends[1])).tolist()
    assert 0.93 < np.mean(inside) < 0.98, np.mean(inside)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """A run of 40 trials on 300 images, and two replicates each of two of its networks, one of which failed."""
    folder = make_run(tmp_path_factory.mktemp("results") / "sample", 0)
    space = SearchSpace(experiment().space)
    for number in range(40):
        write_record(folder, replace(sample_record(space, number), num_validation=300))
    records = read_records(folder)
    before = report(folder)
    asked = chosen(records, experiment().objectives, 2)
    first, second = asked[0][0], asked[1][0]
    for record, number, top1 in ((first, 1, 0.02), (first, 2, -0.04), (second, 1, -0.02), (second, 2, None)):
        write_record(replicate_dir(folder, record.number), replicate(record, number, top1))
    return folder, before, records, (first, second)


def replicate(of: TrialRecord, number: int, change: float | None) -> TrialRecord:
    again = replace(of, number=number, replicate_of=of.number, seed=of.seed + number)
    if change is None:
        return replace(again, state="failed", objectives={}, error="non_finite_loss: epoch 2")
    return replace(again, objectives=of.objectives | {"top1": of.objectives["top1"] + change})


def test_what_is_trained_again(repeated):
    """The front and what may be on it; by default an eighth of the trainings, the most undecided first; later
    trainings of the same networks change nothing."""
    folder, _, records, _ = repeated
    objectives = experiment().objectives
    every = {record.number for record, _ in chosen(records, objectives, 1)}
    members = {entry["number"] for entry in report(folder)["front"]}
    assert members < every and len(every) < 25
    assert [number for _, number in chosen(records, objectives, 2)] == [1] * len(every) + [2] * len(every)
    few = chosen(records, objectives, None)
    found = judged_of(records)
    doubts = [abs(found[record.number] - 0.5) for record, _ in few]
    assert len(few) == 40 // 8 and doubts == sorted(doubts) and max(doubts) < 0.4
    assert chosen(records, objectives, 0) == [] == chosen(records, objectives[1:], None)
    old = [replace(record, num_validation=0) for record in records]
    assert {record.number for record, _ in chosen(old, objectives, 1)} == members


def judged_of(records):
    objectives = experiment().objectives
    found = judge([record.key for record in records], as_points(records, objectives), objectives, 300)
    assert found is not None
    return dict(zip((record.number for record in records), found.on_front.tolist(), strict=True))


def test_no_reader_takes_a_replicate_for_a_trial(repeated):
    folder, before, records, _ = repeated
    after = report(folder)
    noisy = {"noise", "contenders", "front", "replicates", "findings"}
    assert {name: after[name] for name in after.keys() - noisy} == {name: before[name] for name in after.keys() - noisy}
    assert [entry["objectives"] for entry in after["front"]] == [entry["objectives"] for entry in before["front"]]
    assert read_records(folder) == records and len(RunReader(folder).refresh().rows) == 40
    assert run_status(folder)["num_trainings"] == 40


def test_the_report_has_intervals_and_probabilities(repeated, tmp_path):
    folder, before, _, (first, second) = repeated
    found = report(folder)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["noise"]["num_images"] == 300 and found["noise"]["degrees"] == 3
    assert (found["noise"]["num_replicates"], found["noise"]["num_failed"], found["noise"]["num_repeated"]) == (4, 1, 2)
    assert found["noise"]["change"] == pytest.approx((-0.01 - 0.02) / 2)
    noise = noise_of(RunReader(folder).refresh())
    assert noise is not None
    assert noise.of(first.number)["num_trainings"] == 3 and noise.of(second.number)["num_trainings"] == 2
    assert noise.of(first.number)["mean"] == pytest.approx(first.objectives["top1"] - 0.02 / 3)
    assert [entry["noise"]["beats_cheaper"] is None for entry in found["front"]][:2] == [True, False]
    assert all(entry["noise"]["on_front"] >= 0.1 for entry in found["contenders"])
    assert not {entry["key"] for entry in found["contenders"]} & {entry["key"] for entry in found["front"]}
    text = to_text(found, 100)
    assert max(map(len, text.splitlines())) <= 100
    entry = found["front"][1]
    line = next(line for line in text.splitlines() if entry["key"] in line)
    assert f"{100 * entry['noise']['low']:.1f}-{100 * entry['noise']['high']:.1f}" in line
    assert "measured on 300 images" in text and "from 3 further trainings" in text
    assert "trained again, 2 networks had -1.5 %" in text and "1 replicate failed" in text
    plot(folder, tmp_path / "bare.svg")
    assert "95 % interval" in (tmp_path / "bare.svg").read_text(encoding="utf-8")
    assert before["noise"]["degrees"] == 0 and "not measured, taken at the usual size" in to_text(before)


def test_replicates_that_are_missing_leave_a_run_unfinished(tmp_path):
    config = experiment(search={"num_trials": 20, "replicates": 1})
    folder = make_run(tmp_path / "run", 0, config)
    space = SearchSpace(config.space)
    for number in range(20):
        write_record(folder, replace(sample_record(space, number), num_validation=300))
    assert run_status(folder)["state"] == "finished"
    left = left_to_repeat(folder, config, read_records(folder))
    assert progress(folder) == (0, len(left)) and run_status(folder)["state"] == "interrupted"
    for record, number in left:
        write_record(replicate_dir(folder, record.number), replicate(record, number, 0.0))
    assert left_to_repeat(folder, config, read_records(folder)) == []
    assert run_status(folder)["state"] == "finished" and progress(folder) == (len(left), len(left))
    assert {number: len(found) for number, found in read_replicates(folder).items()} == {r.number: 1 for r, _ in left}


def test_confirm_refuses_what_has_no_training_to_repeat(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "results/costs", 3, experiment(objectives=[{"name": "latency_ms", "device": "cpu"}]))
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "confirm", "costs")
    assert code == 2 and "its objectives have no top1" in errors and "Traceback" not in errors
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "confirm", "none")
    assert code == 2 and "no run 'none'" in errors


def test_replicates_by_default_are_known_before_a_search():
    search = {"num_trials": 60}
    assert most_replicates(experiment(search=search)) == 7
    assert most_replicates(experiment(search=search | {"replicates": 2})) == 0
    assert most_replicates(experiment(search=search, objectives=[{"name": "num_params"}])) == 0
