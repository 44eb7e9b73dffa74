"""Freeze-thaw: the ends of curves, what going on is worth, who goes on, and the same decisions after a kill."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from helpers.searches import results, write_experiment
from nas.bench.search.simulation import simulate
from nas.bench.search.synthetic import SyntheticSpace
from nas.config.reading import load_experiment
from nas.runs.folder import write_run
from nas.runs.record import TrialRecord
from nas.runs.under_way import trials_under_way
from nas.search.progress import Progress
from nas.search.searcher import StudySearcher
from nas.search.stopping.choosing import make_stopping
from nas.search.stopping.freeze_thaw import FreezeThaw, thawing_epochs
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.surrogate import Knowledge, SurrogateSampler
from nas.search.surrogate.axes import Space
from nas.search.surrogate.extrapolation import ends_of_curves
from nas.search.surrogate.freeze_thaw import Schedule
from nas.search.surrogate.knowledge import Known
from nas.search.surrogate.worth import best_rate
from nas.space.genotype import Genotype
from nas.space.training import key_of

SPACE: dict[str, BaseDistribution] = {name: CategoricalDistribution(list("abcd")) for name in ("operator", "other")}
SCHEDULE = Schedule(9, [1, 2, 4])


def curve(operator: str, other: str, epochs: int = 9) -> dict[int, float]:
    """Errors that come down at the operator's pace."""
    end = 0.1 + 0.05 * "abcd".index(other)
    pace = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 3.0}[operator]
    return {epoch: end + 0.5 * np.exp(-epoch / pace) for epoch in range(1, epochs + 1)}


def test_the_pace_of_an_operator_is_learned():
    """Two that are equal after an epoch are expected to end where the others of their operator did."""
    space = Space(SPACE, lambda params: params, np.random.default_rng(0))
    names = [(operator, other) for operator in "abcd" for other in "abcd"]
    curves = [curve(*name) for name in names]
    curves[0] = curve("a", "a", 1)
    curves[8] = dict(curves[0])  # of "c", as good after its first epoch
    effective = np.array([space.in_effect({"operator": a, "other": b}) for a, b in names])
    ends = ends_of_curves(curves, effective, space)
    assert ends.values[0] > ends.values[8] + 0.02 and (ends.noise[[0, 8]] > 0).all()
    assert ends.values[5] == curves[5][9] and ends.noise[5] == 0
    assert list(ends.left) == [1] and ends.left[1] == pytest.approx(ends.noise[[0, 8]].mean())


@pytest.mark.parametrize("curves", [[], [{}, {}], [{3: 0.5}], [{1: 0.5}, {}, {1: 0.4, 2: 0.3}]])
def test_ends_of_few_or_no_curves(curves):
    space = Space(SPACE, lambda params: params, np.random.default_rng(0))
    ends = ends_of_curves(curves, np.zeros((len(curves), 2), int), space)
    assert np.isfinite(ends.values).tolist() == [bool(one) for one in curves] and (ends.noise >= 0).all()


def test_ends_of_curves_of_many_lengths():
    """As a pruner leaves them."""
    draw = np.random.default_rng(0)
    space = Space(SPACE, lambda params: params, draw)
    curves = [{epoch: 1 / epoch for epoch in range(1, length + 1)} for length in draw.integers(1, 60, size=80)]
    ends = ends_of_curves(curves, draw.integers(0, 4, size=(80, 2)), space)
    assert np.isfinite(ends.values).all() and len(ends.left) <= 7


def below_a_half(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The probability of an error below 0.5."""
    from scipy.special import ndtr

    return ndtr((0.5 - mean[:, 0]) / np.maximum(spread[:, 0], 1e-9))


@pytest.mark.parametrize("variance", [1e-6, 0.01, 0.1])
def test_what_is_looked_at_again_is_worth_the_best_rate_of_all_rules(variance):
    """Against the rates of all thresholds, of many draws of what is seen."""
    mean, spread, before, after = 0.6, 0.2, 3.0, 6.0
    told = spread**2 / np.sqrt(spread**2 + variance)
    seen = mean + told * np.random.default_rng(0).normal(size=200_000)
    gains = below_a_half(seen[:, None], np.full((len(seen), 1), np.sqrt(spread**2 - told**2)))
    order = np.argsort(-gains)
    count = np.arange(1, len(seen) + 1) / len(seen)
    rate = (np.cumsum(gains[order]) / len(seen) / (before + after * count)).max()
    found = best_rate(
        below_a_half, np.array([[mean]]), np.array([[spread]]), 0, np.array([before]), np.array([after]), variance
    )
    assert found[0] == pytest.approx(rate, rel=0.15)
    whole = below_a_half(np.array([[mean]]), np.array([[spread]])) / (before + after)
    assert found[0] >= whole[0] * 0.95


def test_what_cannot_be_known_earlier_is_worth_its_whole_training():
    mean, spread = np.array([[0.6]]), np.array([[0.2]])
    found = best_rate(below_a_half, mean, spread, 0, np.array([3.0]), np.array([6.0]), 1e6)
    assert found[0] == pytest.approx(below_a_half(mean, spread)[0] / 9, rel=1e-3)


def study_of(waiting: Mapping[str, int]) -> tuple[optuna.Study, dict[int, int]]:
    """Eight complete trials, and waiting ones: which operator and other choice, after how many epochs."""
    study = optuna.create_study(direction="minimize")
    found = {}
    for names in ("aa", "ab", "ba", "bc", "cb", "cc", "da", "dd"):
        trial = ask(study, *names)
        trial.set_user_attr("curve", json.dumps([*curve(names[0], names[1]).items()]))
        study.tell(trial, curve(names[0], names[1])[9])
    for names, epochs in waiting.items():
        trial = ask(study, *names)
        trial.set_user_attr("curve", json.dumps([*curve(names[0], names[1], epochs).items()]))
        found[trial.number] = epochs
    return study, found


def ask(study: optuna.Study, operator: str, other: str) -> optuna.Trial:
    study.enqueue_trial({"operator": operator, "other": other})
    return study.ask(SPACE)


def thaw(study: optuna.Study, waiting: dict[int, int], may_begin: bool, **knowledge) -> tuple[int | None, Knowledge]:
    told = Knowledge(names=("error",), space=SPACE, **knowledge)
    return SurrogateSampler(told, 0).thaw(study, len(study.trials), waiting, SCHEDULE, may_begin), told


def test_the_best_of_those_that_wait_goes_on_and_hopeless_ones_never():
    study, waiting = study_of({"bd": 1, "ca": 4, "dc": 4})
    best = next(number for number in waiting if study.trials[number].params == {"operator": "c", "other": "a"})
    assert thaw(study, waiting, may_begin=False)[0] in (best, None)
    study, waiting = study_of({"bd": 4, "dc": 4})
    assert thaw(study, waiting, may_begin=False)[0] is None


def test_where_another_begins_it_is_the_one_that_was_compared():
    study, waiting = study_of({"bd": 4, "dc": 4})
    chosen, knowledge = thaw(study, waiting, may_begin=True)
    assert chosen is None
    number, expected = len(study.trials), knowledge.chosen[len(study.trials)]
    study.sampler = SurrogateSampler(knowledge, 1)
    trial = study.ask(SPACE)
    assert (trial.number, trial.params) == (number, expected) and not knowledge.chosen


def test_freeze_thaw_waits_at_every_rung_and_keeps_who_goes_on():
    asked: list[tuple[dict[int, int], bool]] = []

    def choose(waiting: Mapping[int, int], may_begin: bool) -> int | None:
        asked.append((dict(waiting), may_begin))
        return min(waiting) if may_begin else None

    freeze_thaw = FreezeThaw([1, 2, 4], choose)
    assert freeze_thaw.promote(True) is None and not asked  # nothing waits
    assert [freeze_thaw.report("7", epoch, [0.5]) for epoch in (1, 1)] == ["pause", "pause"]
    assert freeze_thaw.report("8", 1, [0.4]) == "pause"
    assert freeze_thaw.promote(False) is None
    assert freeze_thaw.promote(True) == "7" and asked[-1] == ({7: 1, 8: 1}, True)
    assert [freeze_thaw.report("7", epoch, [0.5]) for epoch in (1, 2, 3)] == ["go on", "pause", "go on"]
    again = FreezeThaw([1, 2, 4], choose)
    again.enter("7", {1: [0.5], 2: [0.5]}, waits=True)
    again.enter("8", {1: [0.4]})  # it goes on
    assert again.waiting == {7: 2} and again.report("8", 1, [0.4]) == "go on" and again.report("8", 2, [0.4]) == "pause"
    again.enter("7", {epoch: [0.1] for epoch in range(1, 10)})
    assert again.waiting == {8: 2}


def test_the_first_rung_is_a_ninth_of_a_training():
    assert thawing_epochs(27, 1, 2) == [3, 6, 12] and thawing_epochs(9, 1, 2) == [1, 2, 4]
    assert thawing_epochs(27, 5, 2) == [5, 10] and thawing_epochs(1, 1, 2) == []


def test_a_simulated_search_spends_its_epochs_on_what_is_good():
    """As many trainings begin, most of which stop; what is found is more than as many epochs of whole ones find."""
    space: Any = SyntheticSpace(3)
    found = simulate(space, "surrogate", "freeze_thaw", 0, 16)
    assert len(found.epochs) == 16 and 16 * 3 < found.epochs[-1] < 16 * space.epochs / 2
    whole = simulate(space, "surrogate", "none", 0, found.epochs[-1] // space.epochs)
    assert found.hypervolumes[-1] > whole.hypervolumes[-1] > 0


def test_a_search_decides_after_a_kill_as_it_would_have(tmp_path):
    """By one driver, and by drivers that are killed after every third training; accuracies are made up."""
    orders: list[list[int]] = []
    experiment = write_experiment(tmp_path)
    options = ["search.num_trials=9", "search.sampler=surrogate", "search.scheduler=freeze_thaw", "proxy.epochs=4"]
    config, space = load_experiment(experiment, options)

    def costs(params: dict[str, Any]) -> dict[str, float]:
        return {"num_params": float(sum(value for value in params.values() if isinstance(value, int)))}

    for name, most in (("whole", 1000), ("killed", 3)):
        run_dir = tmp_path / f"results/{name}"
        write_run(run_dir, experiment, config)
        orders.append([])
        while True:
            study = Study(config, space, storage_url(config, run_dir), name, costs)
            records = results(run_dir) if (run_dir / "trials").exists() else []
            recovered = study.reconcile(records, trials_under_way(run_dir))
            progress = Progress(config.objectives, config.search.num_trials, records)
            stopping = make_stopping(config, records, study.thaw)
            searcher = StudySearcher(config, space, study, run_dir, 1, progress, records, recovered, stopping)
            if trained(searcher, most, orders[-1], costs):
                break
        found = Counter(record.state for record in results(run_dir))
        assert found["complete"] and found["stopped"] and found.total() == 9, found
        assert {trial.state for trial in study.study.trials} == {TrialState.COMPLETE, TrialState.FAIL}
    assert orders[0] == orders[1]


def trained(searcher: StudySearcher, most: int, order: list[int], costs: Known) -> bool:
    """What Ray does with a searcher whose trials wait, at most so often; whether the search has come to its end."""
    epochs = searcher.config.proxy.epochs
    for name in map(str, range(most)):
        asked = searcher.suggest(name)
        if not isinstance(asked, dict):
            return True
        order.append(asked["number"])
        genotype, known = Genotype.from_json(asked["genotype"]), dict(costs(asked["params"]))
        best = (zlib.crc32(genotype.key.encode()) % 50 + known["num_params"]) / 200
        curve = [{"epoch": epoch, "top1": best * epoch / (epoch + 1), "seconds": 1.0} for epoch in range(1, epochs + 1)]
        rows: list[dict[str, float]] = []
        for row in curve:
            rows.append(row | known)
            if searcher.stopping and searcher.stopping.report(str(asked["number"]), int(row["epoch"]), []) == "pause":
                searcher.on_trial_complete(name, {"rows": rows})
                break
        else:
            record = TrialRecord(
                number=asked["number"], key=key_of(genotype, asked["params"]), state="complete",
                genotype=genotype.to_dict(), params=asked["params"], curve=curve, costs=known,
                objectives={"top1": curve[-1]["top1"]} | known,
            )  # fmt: skip
            searcher.on_trial_complete(name, {"rows": rows, "record": record.to_json()})
    return False
