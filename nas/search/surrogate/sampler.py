"""SurrogateSampler: an Optuna sampler that models what needs training and computes all other costs exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.search.surrogate.axes import Params, Space
from nas.search.surrogate.freeze_thaw import Schedule, choice
from nas.search.surrogate.knowledge import Knowledge
from nas.search.surrogate.lessons import constraints_of, lesson_of
from nas.search.surrogate.proposal import Proposal


class SurrogateSampler(BaseSampler):
    """Proposes the candidate that is expected to add most to the hypervolume, of any Optuna study.

    Parameters that all complete trials have are proposed together; others, as of a conditional space, at random.
    Floating-point numbers and integers of many values are seen in 64 cells of their range (of its logarithm, where the
    distribution is logarithmic) and drawn within the cell that is chosen. `constraints_func(trial)` gives numbers of
    which none may be above 0, as for Optuna's own samplers; they are learned. Values reported to pruners count as a
    curve.

    Every objective that is not known has a Gaussian-process ensemble (`model.Ensemble`). Candidates are random points,
    children of the front and neighbours of the best; what repeats a trial or breaks a known limit is none.
    Trials under way count as if they had what is predicted, so proposals of a batch differ. Trials that are not trained
    to the end, running ones or others, count with the user attribute `curve` ([[epoch, value], ...] of the only unknown
    objective): what complete trials made of the same epoch, and how exactly, is what is taken for their end. Failed
    trials with the user attributes `costs` ({name: value}) and `costs_only` (true) teach costs, and may be repeated.

    The first proposals, until six trials have values, are random ones that differ most from those before them. The same
    seed and trials give the same proposals. Raises ValueError where nothing needs training, and InfeasibleSpace where
    no candidate keeps the known limits.
    """

    def __init__(
        self,
        knowledge: Knowledge | None = None,
        seed: int | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ):
        self.knowledge = knowledge or Knowledge()
        self._constraints = constraints_func
        self._draw = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        self._draw = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space as it was given, else the parameters that all complete trials have: none for the first."""
        if self.knowledge.space is not None:
            return dict(self.knowledge.space)
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        if all(distribution.single() for distribution in search_space.values()):
            return {}
        if (chosen := self.knowledge.chosen.pop(trial.number, None)) is not None:
            return chosen
        return self._proposal(study, trial.number, search_space).best()

    def thaw(
        self, study: optuna.Study, number: int, waiting: Mapping[int, int], schedule: Schedule, may_begin: bool
    ) -> int | None:
        """The trial that goes on, of `waiting` numbers and the epochs that they have; None where the next trial, which
        will have this `number`, is worth more, or nothing is worth it (see `freeze_thaw.choice`).

        What is then proposed for `number` is what was compared here. The knowledge must have the space.
        """
        proposal = self._proposal(study, number, dict(self.knowledge.space or {}), waiting)
        chosen, params = choice(proposal, waiting, schedule, may_begin)
        if params is not None:
            self.knowledge.chosen[number] = params
        return chosen

    def _proposal(
        self, study: optuna.Study, number: int, search_space: dict[str, BaseDistribution], waiting: Collection[int] = ()
    ) -> Proposal:
        trials = study.get_trials(deepcopy=False)
        others = [other for other in trials if other.number != number]
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        names = self.knowledge.names or [str(column) for column in range(len(signs))]
        if len(signs) != len(names):
            raise ValueError(f"names: {len(names)} are given, the study has {len(signs)} objectives")
        limits = {name: (-np.inf, 0.0) for other in others for name in constraints_of(other)}
        knowledge = replace(self.knowledge, names=names, limits={**self.knowledge.limits, **limits})
        space = Space(search_space, knowledge.active, self._draw)
        memory = knowledge.memory if knowledge.space is not None else {}  # else the space changes with the trials
        lessons = [lesson_of(space, other, memory) for other in others]
        return Proposal(knowledge, signs, space, lessons, self._draw, waiting)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self._constraints is not None:
            _process_constraints_after_trial(self._constraints, study, trial, state)
