"""The surrogate sampler: its arithmetic against other ways to the same numbers, its manners, what it is good for."""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nas.bench.search.synthetic import SyntheticSpace
from nas.config.reading import load_experiment
from nas.measure.cost import num_macs, num_params
from nas.networks.model import build_model
from nas.runs.pareto import hypervolume
from nas.search.samplers import distribution_of
from nas.search.surrogate import InfeasibleSpace, Knowledge, SurrogateSampler
from nas.search.surrogate.improvement import expected_hypervolume_improvement
from nas.search.surrogate.knowledge import nothing
from nas.search.surrogate.known_costs import known_costs
from nas.search.surrogate.model import Ensemble

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE: dict[str, BaseDistribution] = {
    "a": CategoricalDistribution(["x", "y", "z"]),
    "b": IntDistribution(1, 4),
    "c": CategoricalDistribution([16, 32, 64]),
}


FAR = optuna.trial.create_trial(state=TrialState.RUNNING)
FAR.number = 10**6


def error_of(params: dict) -> float:
    return {"x": 0.3, "y": 0.1, "z": 0.2}[params["a"]] + 0.5 / (params["b"] + params["c"] / 16)


def cost_of(params: dict) -> float:
    return {"x": 1.0, "y": 3.0, "z": 1.5}[params["a"]] * params["b"] * params["c"]


def searched(count: int, seed: int = 0, **knowledge) -> optuna.Study:
    """A study of `count` trials on the error and the known cost, a sampler made anew for each as in a search."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    options = {"space": SPACE, "known": lambda params: {"cost": cost_of(params)}, **knowledge}
    for number in range(count):
        study.sampler = SurrogateSampler(Knowledge(names=["accuracy", "cost"], **options), seed=seed + number)
        trial = study.ask(SPACE)
        study.tell(trial, [1 - error_of(trial.params), cost_of(trial.params)])
    return study


def test_a_reference_says_which_networks_are_of_use():
    """Proposals leave those alone that are cheap and bad, which without it are as welcome as any; a reference that no
    network reaches does not end the search."""
    space, draw = SyntheticSpace(1), np.random.default_rng(0)
    distributions = {name: distribution_of(values) for name, values in space.choices().items()}
    median = float(np.median(space.errors(space.random(400, draw))))

    def useless(reference: dict[str, float], num_trials: int = 24) -> float:
        study = optuna.create_study(directions=["minimize", "minimize"])
        knowledge = Knowledge(
            space=distributions,
            known=lambda params: {"1": space.cost(params)},
            active=space.active,
            reference=reference,
        )
        for number in range(num_trials):
            study.sampler = SurrogateSampler(knowledge, seed=number)
            trial = study.ask(distributions)
            study.tell(trial, [space.true_error(trial.params), space.cost(trial.params)])
        return float(np.mean([trial.values[0] > median for trial in study.trials[8:]]))

    assert useless({"0": median}) < useless({}) - 0.2
    useless({"0": 0.0, "1": -9.0}, 9)


def test_what_is_remembered_of_trials_changes_no_proposal():
    """Nor where the trials of another study were remembered before."""
    memory: dict = {}
    forgetful = [trial.params for trial in searched(20, seed=5).trials]
    searched(20, memory=memory)
    assert len(memory) == 19
    assert [trial.params for trial in searched(20, seed=5, memory=memory).trials] == forgetful


def test_many_trials_cost_a_proposal_hardly_more_than_some_and_the_best_of_them_count():
    """CPU seconds after 500 and after 10,000 trials, of which the first 30 are the only good ones: the proposals are
    near those."""
    space, draw = SyntheticSpace(0), np.random.default_rng(0)
    distributions = {name: distribution_of(values) for name, values in space.choices().items()}
    good = {name: values[0] for name, values in space.choices().items()}
    seconds = []
    for count in (500, 10_000):
        study = optuna.create_study(directions=["minimize", "minimize"])
        for number in range(count):
            params = {name: values[draw.integers(len(values))] for name, values in space.choices().items()}
            if number < 30:
                names = draw.permutation(list(good))[:2]
                params = good | {name: params[name] for name in names}
            far = float(sum(params[name] != good[name] for name in good))
            values = [1 + far + 0.1 * draw.random(), space.cost(params)]
            study.add_trial(optuna.create_trial(params=params, distributions=distributions, values=values))
        knowledge = Knowledge(("error", "cost"), distributions, lambda params: {"cost": space.cost(params)})
        SurrogateSampler(knowledge, seed=0).sample_relative(study, FAR, distributions)  # reads the trials
        begin, away = time.process_time(), []
        for seed in range(1, 6):
            found = SurrogateSampler(knowledge, seed=seed).sample_relative(study, FAR, distributions)
            away.append(sum(found[name] != good[name] for name in good))
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 3 * seconds[0], seconds
    assert sum(away) < 5 * len(good) / 2, (away, len(good))


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
def test_expected_improvement_is_what_sampling_finds(num_objectives):
    draw = np.random.default_rng(num_objectives)
    front = draw.random((6, num_objectives))
    reference = np.full(num_objectives, 0.9)
    mean, spread = draw.random((3, num_objectives)), draw.random((3, num_objectives)) * 0.2
    spread[1, 1:] = 0.0  # as where costs are known
    found = expected_hypervolume_improvement(mean, spread, front, reference)
    before = hypervolume(front, reference)
    for row in range(3):
        points = mean[row] + spread[row] * draw.standard_normal((600, num_objectives))
        gains = [hypervolume(np.vstack([front, point]), reference) - before for point in points]
        assert found[row] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(600) + 1e-4)


def test_a_dominated_candidate_without_doubt_gains_nothing():
    zero = np.zeros((1, 2))
    assert expected_hypervolume_improvement(np.array([[0.6, 0.6]]), zero, np.array([[0.5, 0.5]]), np.ones(2)) == [0.0]
    assert expected_hypervolume_improvement(
        np.array([[0.4, 0.6]]), zero, np.array([[0.5, 0.5]]), np.ones(2)
    ) == pytest.approx(0.04)


def test_the_model_finds_effects_and_pairs_and_knows_what_it_has_not_seen():
    draw = np.random.default_rng(0)
    sizes, numeric = [5, 4, 5, 3], [False, True, False, False]
    effects, pair = draw.normal(size=(4, 5)), draw.normal(size=(5, 5))

    def values(rows):
        return sum(effects[i, rows[:, i]] for i in range(4)) + pair[rows[:, 0], rows[:, 2]]

    rows = draw.integers(0, sizes, size=(140, 4))
    model = Ensemble(sizes, numeric, rows, values(rows) + draw.normal(0, 0.1, 140))
    asked = draw.integers(0, sizes, size=(200, 4))
    mean, spread = model.predict(asked)
    assert np.corrcoef(mean, values(asked))[0, 1] > 0.95
    off = np.abs(mean - values(asked)) / spread
    assert 0.5 < np.mean(off < 1) < 0.95 and np.mean(off < 3) > 0.9
    noisy = model.predict(asked, noisy=True)
    assert noisy[0] == pytest.approx(mean)
    assert 0.03 < np.sqrt(noisy[1] ** 2 - spread**2).mean() < 0.3
    inside = model.within(-np.inf, float(np.median(mean)), asked)
    assert inside[mean < np.quantile(mean, 0.2)].min() > 0.95 > 0.05 > inside[mean > np.quantile(mean, 0.8)].max()
    assert model.within(-np.inf, np.inf, asked) == pytest.approx(1.0)
    few = Ensemble(sizes, numeric, rows[:10], values(rows[:10]))
    assert few.predict(asked)[1].mean() > 2 * spread.mean()
    waiting = Ensemble(sizes, numeric, rows[:10], values(rows[:10]), pending=asked[:1])
    assert waiting.predict(asked[:1])[1] < few.predict(asked[:1])[1]
    assert waiting.predict(asked)[0] == pytest.approx(few.predict(asked)[0])


def test_a_guess_far_below_all_that_is_known_does_not_stretch_the_scale():
    draw = np.random.default_rng(3)
    rows = draw.integers(0, [6, 6], size=(40, 2))
    values = 0.1 + 0.05 * rows.sum(axis=1) + draw.normal(0, 0.005, 40)
    noise = np.zeros(40)
    values[7], noise[7] = 1e-5, 0.01
    mean, _ = Ensemble([6, 6], [True, True], rows, values, noise).predict(rows)
    assert np.abs(mean - values)[np.arange(40) != 7].max() < 0.03


@pytest.mark.parametrize("values", [[0.2] * 8, [0.1] * 5 + [0.1 + 1e-12, 0.3, 0.9], [0.2, 0.7]])
def test_values_that_are_nearly_equal_give_finite_predictions(values):
    rows = np.random.default_rng(4).integers(0, [4, 4], size=(len(values), 2))
    mean, spread = Ensemble([4, 4], [True, False], rows, np.array(values)).predict(rows)
    assert np.isfinite(mean).all() and (spread > 0).all() and abs(mean - np.array(values)).max() < 1.0


def test_low_values_are_told_apart_finer_than_high_ones():
    draw = np.random.default_rng(2)
    sizes = [6, 6, 6, 6]
    effects = draw.uniform(0, 0.7, (4, 6))

    def errors(rows):
        return 0.08 * np.exp(sum(effects[i, rows[:, i]] for i in range(4)))

    rows = draw.integers(0, sizes, size=(80, 4))
    model = Ensemble(sizes, [False] * 4, rows, errors(rows) * np.exp(draw.normal(0, 0.1, 80)))
    asked = draw.integers(0, sizes, size=(400, 4))
    mean, spread = model.predict(asked)
    low, high = (errors(asked) < np.quantile(errors(asked), 0.2)), (errors(asked) > np.quantile(errors(asked), 0.8))
    assert mean.min() > 0 and 1.5 * spread[low].mean() < spread[high].mean()
    assert np.abs(mean - errors(asked))[low].mean() < 0.02


def test_uncertain_values_count_less():
    draw = np.random.default_rng(1)
    rows = draw.integers(0, [3, 3], size=(30, 2))
    values = rows.sum(axis=1) + draw.normal(0, 0.05, 30)
    there = (rows == 0).all(axis=1)
    wrong = np.where(there, 9.0, values)
    doubted = Ensemble([3, 3], [False, False], rows, wrong, noise=np.where(there, 100.0, 0.0))
    trusted = Ensemble([3, 3], [False, False], rows, wrong)
    assert abs(doubted.predict(np.zeros((1, 2), int))[0]) < 1.0 < trusted.predict(np.zeros((1, 2), int))[0]


def test_same_seed_same_proposals_no_repeats_and_the_space_may_run_out():
    study = searched(36)
    assert [trial.params for trial in searched(9).trials] == [trial.params for trial in study.trials[:9]]
    assert searched(3, seed=99).trials[2].params != study.trials[2].params
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 36  # every point once
    study.sampler = SurrogateSampler(Knowledge(known=lambda params: {"1": cost_of(params)}), seed=0)
    assert study.ask(SPACE).params["b"] in range(1, 6)


def test_what_has_no_effect_makes_no_difference():
    """With x, the parameter b has no effect: no two trials differ in that alone."""

    def active(params):
        return {name: value for name, value in params.items() if not (name == "b" and params["a"] == "x")}

    study = searched(16, active=active)
    assert len({str(sorted(active(trial.params).items())) for trial in study.trials}) == 16


def test_a_batch_of_proposals_differs():
    study = searched(10)
    sampler = SurrogateSampler(Knowledge(space=SPACE, known=lambda params: {"1": cost_of(params)}), seed=1)
    study.sampler = sampler
    batch = [study.ask(SPACE).params for _ in range(8)]
    assert len({str(sorted(params.items())) for params in batch}) == 8


def test_known_limits_hold_for_every_proposal_and_learned_ones_soon():
    study = searched(10, limits={"cost": (0.0, 60.0)})
    assert all(cost_of(trial.params) <= 60 for trial in study.trials)
    study = optuna.create_study(directions=["minimize"])
    knowledge = Knowledge(names=["error"], space=SPACE, limits={"weight": (0.0, 150.0)})
    for number in range(18):
        study.sampler = SurrogateSampler(knowledge, seed=number)
        trial = study.ask(SPACE)
        trial.set_user_attr("costs", json.dumps({"weight": cost_of(trial.params)}))
        study.tell(trial, error_of(trial.params))
    kept = [cost_of(trial.params) <= 150 for trial in study.trials]
    assert np.mean(kept[8:]) >= 0.8


def test_costs_measured_alone_are_learned_and_their_networks_still_proposed():
    """All 36 points were measured: every proposal keeps the learned limit from the first that a model makes, none
    comes twice."""
    study = optuna.create_study(directions=["minimize"])
    knowledge = Knowledge(names=["error"], space=SPACE, limits={"weight": (0.0, 100.0)})
    for a, b, c in itertools.product("xyz", range(1, 5), (16, 32, 64)):
        params = {"a": a, "b": b, "c": c}
        costs = {"costs": json.dumps({"weight": cost_of(params)}), "costs_only": "true"}
        study.add_trial(
            optuna.create_trial(state=TrialState.FAIL, params=params, distributions=SPACE, user_attrs=costs)
        )
    for number in range(14):
        study.sampler = SurrogateSampler(knowledge, seed=number)
        trial = study.ask(SPACE)
        study.tell(trial, error_of(trial.params))
    trained = [trial.params for trial in study.trials[36:]]
    assert len({str(params) for params in trained}) == 14
    assert all(cost_of(params) <= 100 for params in trained[6:]), [cost_of(params) for params in trained]


def test_of_what_is_roughly_known_the_rest_is_learned_from_few_trials():
    """An estimate that is wrong by a factor for one kind, and by another for the others: objectives are predicted to
    some parts in a hundred after six trials, limits kept from there on; without it neither is."""

    def roughly(params: dict) -> dict[str, float]:
        return {name: cost_of(params) * (0.22 if params["a"] == "y" else 0.25) for name in ("cost", "weight")}

    rows = [dict(zip(SPACE, point, strict=True)) for point in itertools.product("xyz", range(1, 5), (16, 32, 64))]
    errors, kept = {}, {}
    for estimated in (nothing, roughly):
        knowledge = {"estimated": estimated, "known": nothing, "limits": {"weight": (0.0, 60.0)}}
        study = optuna.create_study(directions=["maximize", "minimize"])
        for number in range(12):
            study.sampler = SurrogateSampler(Knowledge(names=["accuracy", "cost"], space=SPACE, **knowledge), number)
            trial = study.ask(SPACE)
            trial.set_user_attr("costs", json.dumps({name: cost_of(trial.params) for name in ("cost", "weight")}))
            study.tell(trial, [1 - error_of(trial.params), cost_of(trial.params)])
            if number == 5:
                posterior = study.sampler._proposal(study, 6, SPACE).posterior
                posterior.fit()
                effective = np.array([posterior.space.in_effect(row) for row in rows])
                mean, _ = posterior.predict(effective, [{}] * len(rows))
                cost = mean[:, posterior.order.index("cost")]
                errors[estimated] = np.median(np.abs(cost / [cost_of(row) for row in rows] - 1))
        kept[estimated] = np.mean([cost_of(trial.params) <= 60 for trial in study.trials[6:]])
    assert 4 * errors[roughly] < errors[nothing], errors
    assert kept[roughly] == 1.0 > kept[nothing], kept


def test_a_trial_that_was_lucky_is_predicted_by_what_it_came_to_again():
    study = searched(12)
    lucky = study.trials[7]
    truth = lucky.values[0]
    lucky.values[0] = 0.999

    def predicted(**knowledge) -> float:
        sampler = SurrogateSampler(
            Knowledge(["accuracy", "cost"], SPACE, lambda params: {"cost": cost_of(params)}, **knowledge), seed=0
        )
        memory = optuna.create_study(directions=["maximize", "minimize"])
        for trial in study.trials:
            memory.add_trial(lucky if trial.number == lucky.number else trial)
        posterior = sampler._proposal(memory, 12, SPACE).posterior
        posterior.fit()
        row = np.array([posterior.space.in_effect(lucky.params)])
        return -posterior.predict(row, [{}])[0][0, posterior.order.index("accuracy")]

    before = predicted()
    again = predicted(repeats={"accuracy": {7: [truth + 0.004, truth - 0.004, truth, truth]}})
    assert abs(again - truth) < 0.5 * abs(before - truth), (truth, before, again)
    assert predicted(repeats={"cost": {7: [1.0]}, "accuracy": {99: [0.0]}}) == before


@pytest.mark.parametrize(
    "knowledge, space, message",
    [
        ({"limits": {"cost": (0.0, 1.0)}}, SPACE, "constraints: no candidate has cost from 0 to 1; the nearest"),
        ({"limits": {"cost": (-np.inf, 0.5)}}, SPACE, "no candidate has cost at most 0.5; the nearest of 40.*cost 16"),
        (
            {"known": lambda params: {"accuracy": 1.0, "cost": 1.0}},
            SPACE,
            "accuracy, cost are known before any training",
        ),
        ({"names": ["accuracy"]}, SPACE, "names: 1 are given, the study has 2 objectives"),
    ],
)
def test_what_it_cannot_serve_is_said(knowledge, space, message):
    study = optuna.create_study(directions=["maximize", "minimize"])
    options = {"names": ["accuracy", "cost"], "space": space, "known": lambda params: {"cost": cost_of(params)}}
    study.sampler = SurrogateSampler(Knowledge(**(options | knowledge)), seed=0)
    with pytest.raises(InfeasibleSpace if "limits" in knowledge else ValueError, match=message):
        study.ask(space)


def test_stopped_trials_teach_by_their_curves():
    """Everything with z was stopped early on a bad curve: it is avoided, though z is nowhere complete."""

    def shares(with_curves: bool) -> float:
        study = optuna.create_study(directions=["minimize"])
        draw = random.Random(0)
        for number in range(40):
            params = {"a": ("x", "y", "z")[number % 3], "b": draw.randint(1, 4), "c": draw.choice([16, 32, 64])}
            stopped = params["a"] == "z"
            final = 0.9 if stopped else error_of(params)
            curve = json.dumps([[epoch, final + 0.5 / epoch] for epoch in range(1, 2 if stopped else 10)])
            trial = optuna.create_trial(
                state=TrialState.FAIL if stopped else TrialState.COMPLETE,
                values=None if stopped else [final],
                params=params,
                distributions=SPACE,
                user_attrs={"curve": curve} if with_curves else {},
            )
            study.add_trial(trial)
        study.sampler = SurrogateSampler(Knowledge(names=["error"]), seed=0)
        return [study.ask(SPACE).params["a"] for _ in range(6)].count("z") / 6

    assert shares(with_curves=True) <= 0.2 < shares(with_curves=False)


def test_before_any_is_complete_trials_that_wait_are_compared_where_enough_have_come_to():
    """Sixteen wait, half of them after one epoch and half after two, where the order is the other way round."""

    def proposed(slope: float) -> float:
        study = optuna.create_study(directions=["minimize"])
        draw = random.Random(1)
        for number in range(16):
            params = {"a": ("x", "y")[number % 2], "b": draw.randint(1, 4), "c": draw.choice([16, 32, 64])}
            first = 0.8 if params["a"] == "x" else 0.7
            curve = [[1, first]] if number // 2 % 2 else [[1, first], [2, 0.5 + slope * (first - 0.75)]]
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=SPACE,
                    user_attrs={"curve": json.dumps(curve)},
                )
            )
        study.sampler = SurrogateSampler(Knowledge(names=["error"], space=SPACE), seed=0)
        asked = [study.ask(SPACE).params["a"] for _ in range(6)]
        return asked.count("y") - asked.count("x")

    assert proposed(slope=3.0) > 0 > proposed(slope=-3.0)


def test_it_finds_more_than_random_with_the_same_trainings():
    space = SyntheticSpace(3)
    choices: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.choices().items()
    }
    study = optuna.create_study(directions=["minimize", "minimize"])
    knowledge = Knowledge(("error", "cost"), choices, lambda params: {"cost": space.cost(params)}, space.active)
    points = []
    for number in range(20):
        study.sampler = SurrogateSampler(knowledge, seed=number)
        trial = study.ask(choices)
        study.tell(trial, [space.curve(trial.params, number)[-1], space.cost(trial.params)])
        points.append([space.true_error(trial.params), space.cost(trial.params)])
    draw = np.random.default_rng(0)
    rows = [space.random(100, draw) for _ in range(10)]  # five times as many trainings
    others = [hypervolume(np.stack([space.errors(row), space.costs(row)], 1), space.reference) for row in rows]
    assert hypervolume(points, space.reference) > np.mean(others)


def test_known_costs_are_those_of_the_network_and_equal_active_parameters_are_equal_networks():
    config, space = load_experiment(
        Path(__file__).parents[2] / "search_spaces/quickstart.yaml",
        ["space.mix=per_block", "space.stages.0.depth=[1, 3]", "space.operators.od1={op: odconv, kernel_size: 1}",
         "space.stages.1.pointwise=[od1]", "proxy.learning_rate=8e-3"],
    )  # fmt: skip
    known, draw, choices = known_costs(space, config.proxy), random.Random(0), space.choices()
    drawn = [{name: draw.choice(values) for name, values in choices.items()} for _ in range(600)]
    for params in drawn[:5]:
        model = build_model(space.decode(params), 10, 1)
        assert known(params) == {"num_params": num_params(model), "num_macs": num_macs(model, (1, 32, 32))}
    by_active = {str(space.active(params)): space.decode(params).key for params in drawn}
    assert len(set(by_active.values())) == len(by_active) < len({str(params) for params in drawn})
