"""Early stopping: the order of trials and rungs that never mix; tests/test_search.py has a search that stops some."""

from __future__ import annotations

import inspect
import json
import math
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from nas.config.sections import ExperimentConfig, ObjectiveConfig, SearchConfig
from nas.runs.record import TrialRecord
from nas.search.scheduler import NODE_DIED, Stopped, last_error
from nas.search.stopping.choosing import check_scheduler, make_stopping
from nas.search.stopping.halving import SuccessiveHalving, epsilon_net, non_dominated_order

stopping = partial(SuccessiveHalving, reduction=3, order="crowding", kind="stopping")
OBJECTIVES = [ObjectiveConfig.model_validate({"name": name}) for name in ("top1", "num_params")]


def reported(scheduler: Stopped, trial: str, *epochs: int, top1: float, num_params: float) -> str:
    rows = [{"epoch": epoch, "top1": top1, "num_params": num_params} for epoch in epochs]
    return scheduler.on_trial_result(None, SimpleNamespace(config={"number": trial}), {"rows": rows})


def dominated(points: np.ndarray, row: int, among: list[int]) -> bool:
    return any((points[other] <= points[row]).all() and (points[other] < points[row]).any() for other in among)


@pytest.mark.parametrize("seed", range(20))
def test_order_is_front_by_front(seed):
    """Against taking the fronts off one by one by comparing all pairs."""
    draw = np.random.default_rng(seed)
    points = draw.integers(0, 6, size=(draw.integers(1, 30), draw.integers(1, 4))).astype(float)
    order = non_dominated_order(points)
    assert sorted(order) == list(range(len(points)))
    left = list(order)
    while left:
        front = {row for row in left if not dominated(points, row, left)}
        assert set(left[: len(front)]) == front
        left = left[len(front) :]


def test_within_a_front_the_least_crowded_come_first():
    points = np.array([[0, 10], [1, 9], [2, 8], [7, 3], [10, 0]], float)
    gaps = [math.inf, 0.4, 1.2, 1.6, math.inf]  # of the neighbours, in parts of the range, both objectives
    order = non_dominated_order(points)
    assert order[:2] == [0, 4]
    assert order == sorted(range(5), key=lambda row: (-gaps[row], row))


def test_rungs_are_the_powers_of_three_up_to_a_third_of_the_end():
    assert list(stopping(9).rungs) == [1, 3]
    assert list(stopping(27).rungs) == list(stopping(80).rungs) == [1, 3, 9]
    assert list(stopping(2).rungs) == []


def test_trials_are_compared_at_the_same_epoch_alone():
    scheduler = Stopped(OBJECTIVES, rungs := stopping(27))
    assert reported(scheduler, "a", 1, top1=0.2, num_params=10) == TrialScheduler.CONTINUE
    assert reported(scheduler, "a", 2, 3, top1=0.9, num_params=10) == TrialScheduler.CONTINUE
    # far below what the first reached later, above what it had after as many epochs
    assert reported(scheduler, "b", 1, top1=0.3, num_params=10) == TrialScheduler.CONTINUE
    assert reported(scheduler, "c", 1, top1=0.1, num_params=10) == TrialScheduler.STOP
    assert reported(scheduler, "b", 2, top1=0.0, num_params=10) == TrialScheduler.CONTINUE  # 2 is no rung
    assert reported(scheduler, "b", 3, top1=0.8, num_params=10) == TrialScheduler.STOP
    assert [len(rung) for rung in rungs.rungs.values()] == [3, 2, 0]


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: X\nThe actor is dead "
            "because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
            "unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1)",
            "Worker unexpectedly exits with a connection error code 2. End of file.",
        ),
        (
            "The actor died because of an error raised in its creation task\nTraceback\n  import nas\n"
            "ModuleNotFoundError: No module named 'nas'\n",
            "ModuleNotFoundError: No module named 'nas'",
        ),
        (
            "Task was killed due to the node running low on memory.\nRefer to the documentation\n",
            "Task was killed due to the node running low on memory.",
        ),
        (
            "The actor died because its node has died. Node Id: 1\n\tthe actor's node was terminated: x",
            f"{NODE_DIED}: the",
        ),
        ("", "no reason is known"),
    ],
)
def test_the_last_failure_of_a_trial_in_a_line(text, said):
    before = "Failure # 1 (occurred at 2026-11-29_19-00-00)\nValueError: another\n"
    assert last_error(f"{before}Failure # 2 (occurred at 2026-11-29_19-00-01)\n{text}").startswith(said)


def test_a_cheap_network_goes_on_although_it_is_less_accurate():
    scheduler = Stopped(OBJECTIVES, stopping(9))
    for number, (top1, num_params) in enumerate([(0.9, 100.0), (0.8, 100.0), (0.7, 100.0), (0.6, 100.0)]):
        reported(scheduler, str(number), 1, top1=top1, num_params=num_params)
    assert reported(scheduler, "cheap", 1, top1=0.1, num_params=1.0) == TrialScheduler.CONTINUE


def test_a_repeated_report_counts_once():
    """A trial whose process died reports its epochs again."""
    scheduler = Stopped(OBJECTIVES, rungs := stopping(9))
    for _ in range(3):
        assert reported(scheduler, "a", 1, top1=0.5, num_params=10) == TrialScheduler.CONTINUE
    assert len(rungs.rungs[1]) == 1


def test_trials_that_end_with_one_report_are_compared_with():
    scheduler = Stopped(OBJECTIVES, rungs := stopping(9))
    rows = [{"epoch": epoch, "top1": 0.9, "num_params": 10.0} for epoch in range(1, 10)]
    scheduler.on_trial_complete(None, SimpleNamespace(config={"number": "quick"}), {"rows": rows, "done": True})
    assert [len(rung) for rung in rungs.rungs.values()] == [1, 1]
    assert reported(scheduler, "slow", 1, top1=0.5, num_params=10) == TrialScheduler.STOP


def test_a_third_of_many_goes_on():
    draw = np.random.default_rng(0)
    scheduler = Stopped(OBJECTIVES, stopping(3))
    decisions = [
        reported(scheduler, f"{i} {j}", 1, top1=draw.random(), num_params=draw.random())
        for i, j in product(range(15), range(20))
    ]
    kept = decisions.count(TrialScheduler.CONTINUE)
    assert 80 <= kept <= 150  # a third, and some of those that came while there were few


def test_grace_reduction_and_brackets_move_the_rungs():
    assert list(stopping(32, grace=2, reduction=4).rungs) == [2, 8]
    hyperband = stopping(81, brackets=3)
    assert [list(bracket) for bracket in hyperband.brackets] == [[1, 3, 9, 27], [3, 9, 27], [9, 27]]
    verdicts = [hyperband.report(f"{trial}", 1, [float(trial)]) for trial in range(6)]
    assert verdicts == ["go on", "go on", "go on", "stop", "go on", "go on"]  # 0 and 3 share a bracket
    with pytest.raises(ValueError, match="reduction = 1"):
        SuccessiveHalving(9, reduction=1)


def test_promotion_pauses_everything_and_lets_the_best_third_go_on():
    halving = SuccessiveHalving(9, reduction=3)
    assert [halving.report(str(value), 1, [value]) for value in (5.0, 3.0)] == ["pause", "pause"]
    assert halving.promote(True) is None
    halving.report("1.0", 1, [1.0])
    assert halving.promote(True) == "1.0"
    assert halving.promote(True) is None
    assert halving.report("1.0", 3, [1.0]) == "pause"
    assert halving.report("1.0", 9, [1.0]) == "go on"
    for value in (0.5, 7.0, 8.0):
        halving.report(str(value), 1, [value])
    assert [halving.promote(True), halving.promote(True)] == ["0.5", None]


def test_what_waits_ends_for_ray_and_goes_on_once_it_is_promoted():
    scheduler = Stopped(OBJECTIVES, SuccessiveHalving(9))
    for number, top1 in enumerate([0.2, 0.6]):
        assert reported(scheduler, str(number), 1, top1=top1, num_params=10) == TrialScheduler.STOP
    assert scheduler.stopping.promote(True) == "1"
    assert reported(scheduler, "1", 1, top1=0.6, num_params=10) == TrialScheduler.CONTINUE
    assert reported(scheduler, "1", 2, top1=0.7, num_params=10) == TrialScheduler.STOP


@pytest.mark.parametrize("kind", ["promotion", "stopping"])
def test_a_search_that_goes_on_ranks_against_what_has_ended(kind):
    """Trials of an earlier driver stand in their rungs, and none of them is promoted."""
    config = ExperimentConfig.model_validate_json(
        json.dumps(
            {
                "space": {"operators": {"a": {"op": "conv"}}, "stages": [{"block": "gated", "depth": 1, "width": 8}]},
                "objectives": [{"name": "top1"}, {"name": "num_params"}],
                "search": {"scheduler": "mo_asha", "halving": kind},
                "proxy": {"epochs": 4},
            }
        )
    )
    records = [
        TrialRecord(
            number=number,
            key=str(number),
            state="stopped" if number else "complete",
            genotype={},
            costs={"num_params": 10},
            curve=[{"epoch": epoch, "top1": 0.9 - number / 10} for epoch in range(1, 2 if number else 5)],
        )
        for number in range(3)
    ]
    halving = make_stopping(config, records, lambda *given: None)
    assert isinstance(halving, SuccessiveHalving) and halving.kind == kind and halving.promote(True) is None
    assert {epoch: sorted(rung) for epoch, rung in halving.rungs.items()} == {1: ["0", "1", "2"], 2: ["0"]}
    assert halving.report("late", 1, [-0.3, 10]) == ("pause" if kind == "promotion" else "stop")
    assert halving.promote(True) is None
    assert halving.report("good", 1, [-0.95, 10]) == ("pause" if kind == "promotion" else "go on")
    assert halving.promote(True) == ("good" if kind == "promotion" else None)


def test_a_trial_keeps_its_bracket_whenever_it_comes():
    for before in (0, 2):
        hyperband = SuccessiveHalving(16, brackets=3)
        for number in range(before):
            hyperband.enter(str(number), {epoch: [9.0] for epoch in (1, 2)})
        hyperband.enter("3", {1: [1.0]}, waits=True)
        hyperband.enter("6", {1: [0.5], 2: [0.4]}, waits=True)
        hyperband.report("9", 1, [3.0])
        assert sorted(hyperband.brackets[0][1]) == (["0", "3", "6", "9"] if before else ["3", "6", "9"])
        assert [hyperband.promote(True), hyperband.promote(True)] == (["6", "3"] if before else [None, None])


def test_the_file_and_the_class_have_the_same_defaults():
    search = SearchConfig()
    names = inspect.signature(SuccessiveHalving).parameters
    found = {name: getattr(search, key) for name, key in (("grace", "grace_epochs"), ("reduction", "reduction"))}
    found |= {"order": search.rank, "kind": search.halving}
    assert found == {name: names[name].default for name in found}


def test_an_epsilon_net_takes_what_is_far_from_those_before():
    points = np.array([[0, 10], [1, 9], [2, 8], [5, 5], [10, 0]], float)
    assert non_dominated_order(points, epsilon_net) == [0, 4, 3, 2, 1]
    assert SuccessiveHalving(9, order="epsilon_net")._best({"a": [0, 10], "b": [1, 9], "c": [10, 0]}, 2) == ["a", "c"]


@pytest.mark.parametrize(
    "scheduler, sampler, refused_with_two, refused_with_one",
    [
        ("asha", "tpe", "asha ranks one objective, the file has 2", None),
        ("hyperband", "nsga2", "hyperband ranks one objective, the file has 2", None),
        ("mo_asha", "tpe", None, None),
        ("mo_asha", "gp", *["gp learns only from trainings that came to their ends"] * 2),
        ("none", "gp", None, None),
        ("freeze_thaw", "surrogate", None, None),
        ("freeze_thaw", "tpe", *["freeze_thaw decides by the models of the surrogate"] * 2),
    ],
)
def test_pairs_of_sampler_and_scheduler_that_cannot_serve_are_refused(
    scheduler, sampler, refused_with_two, refused_with_one
):
    search = SearchConfig.model_validate({"scheduler": scheduler, "sampler": sampler})
    for count, refused in ((2, refused_with_two), (1, refused_with_one)):
        if refused is None:
            check_scheduler(search, count)
        else:
            with pytest.raises(ValueError, match=rf"search\.scheduler: {refused}"):
                check_scheduler(search, count)
