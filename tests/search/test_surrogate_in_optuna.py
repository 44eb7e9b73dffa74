"""The surrogate in any study: Optuna's own tests of samplers, conditional spaces, numbers, constraints."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)

from nas.search.surrogate import InfeasibleSpace, Knowledge, SurrogateSampler
from scripts.fuzz_sampler import FuzzedStudy

STUDIES = 6


class TestAsOptunaTestsSamplers(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: SurrogateSampler(seed=0)


def run(objective, num_trials: int = 40, num_objectives: int = 1, **options: Any) -> optuna.Study:
    study = optuna.create_study(
        directions=[StudyDirection.MINIMIZE] * num_objectives, sampler=SurrogateSampler(seed=0, **options)
    )
    study.optimize(objective, n_trials=num_trials)
    return study


def test_a_conditional_space_whose_common_part_repeats():
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        op = trial.suggest_categorical("op", ["conv", "inv", "gn"])
        size = trial.suggest_int("order", 2, 5) if op == "gn" else trial.suggest_int("k", 1, 3)
        depth = trial.suggest_int("d", 1, 5)
        return depth * 0.1 + size * (op == "conv"), depth + size

    assert len(run(objective, 45, 2).trials) == 45


def test_numbers_are_searched_on_their_own_scale():
    """Far nearer to the optimum than random search, on linear, logarithmic, stepped and integer axes."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        rate = trial.suggest_float("rate", 1e-6, 1.0, log=True)
        step = trial.suggest_float("step", 0.0, 10.0, step=0.25)
        count = trial.suggest_int("count", 1, 100_000, log=True)
        found = [(x - 1.3) / 5, np.log(rate / 1e-3) / 7, (step - 7.25) / 5, np.log(count / 500) / 6]
        return float(np.square(found).sum())

    random_search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    random_search.optimize(objective, n_trials=40)
    assert run(objective, 40).best_value < random_search.best_value / 2


def test_what_constraints_forbid_is_learned():
    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_user_attr("over", x + y - 0.5)
        return -x - 2 * y

    study = run(objective, 30, constraints_func=lambda trial: (trial.user_attrs["over"],))
    assert np.median([trial.user_attrs["over"] for trial in study.trials[10:]]) < 0.1  # 0.5 where nothing is learned
    assert study.best_value < -0.9 and study.best_trial.user_attrs["over"] <= 0  # -1 is the best that is allowed


def test_limits_that_one_candidate_in_a_million_keeps():
    """Known costs are gone down, and a trial's neighbours are tried where random candidates never keep them."""
    space: dict[str, BaseDistribution] = {f"width{n}": CategoricalDistribution(range(1, 11)) for n in range(8)}

    def size(params: dict[str, int]) -> dict[str, float]:
        return {"size": float(sum(params.values()))}

    study = optuna.create_study(
        sampler=SurrogateSampler(Knowledge(space=space, known=size, limits={"size": (0, 11)}), 0)
    )
    for _ in range(15):
        trial = study.ask(space)
        assert sum(trial.params.values()) <= 11
        study.tell(trial, sum(n * value for n, value in enumerate(trial.params.values())))
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 15
    study.sampler = SurrogateSampler(Knowledge(space=space, known=size, limits={"size": (0, 7.5)}), 0)
    with pytest.raises(InfeasibleSpace, match="size"):
        study.ask(space)


@pytest.mark.parametrize("seed", [*range(STUDIES), 49])  # the last has values that differ by rounding alone
def test_any_study_is_searched_to_its_end(seed):
    """Random spaces, conditional or not, with values that are huge, equal, infinite, missing or pruned; the script runs
    a thousand of them."""
    study = FuzzedStudy(seed).run(40)
    assert len(study.trials) == 40 and all(trial.state.is_finished() for trial in study.trials)
