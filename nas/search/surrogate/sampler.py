"""SurrogateSampler: an Optuna sampler that models what needs training and computes all other costs exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.runs.pareto import pareto_mask, reference_point
from nas.search.surrogate.axes import Params, Rows, Space
from nas.search.surrogate.improvement import expected_hypervolume_improvement
from nas.search.surrogate.model import Ensemble

Array = NDArray[np.float64]
Limits = Mapping[str, tuple[float, float]]
Known = Callable[[Params], Mapping[str, float]]

STARTUP = 6
RANDOM, CHILDREN, ROUNDS, NEIGHBOURS, BEST = 250, 500, 2, 150, 20
DRAWS_BEFORE_GIVING_UP = 20
DESCENTS, ENOUGH_FEASIBLE = 40, 8
FEWEST_CURVES = 5
MOST_POINTS = 500
"""Trials that a proposal is made from; of more, the best half and the latest."""


def everything(params: Params) -> Params:
    """All parameters are in effect."""
    return params


def nothing(params: Params) -> dict[str, float]:
    """Nothing is known before training."""
    return {}


@dataclass(frozen=True)
class Knowledge:
    """What a sampler is told of a study besides its trials.

    `names` are those of the objectives, in the order of the study's directions; without them they are "0", "1" and so
    on. `space` is what is searched, where it is known before the first trial. `known(params)` gives, by name, values
    that are exact before any training, of objectives and of limited quantities. `active(params)` leaves out parameters
    that have no effect: trials whose active ones are equal are repeats. `limits` are (lowest, highest) by name; a
    limited quantity that is neither an objective nor known is learned from the trials' attribute `costs`. `reference`
    has, by name, the worst values of objectives that are of use: nothing is gained beyond them.
    `memory` has what was read of finished trials, by number, so that the next proposal need not.
    """

    names: Sequence[str] = ()
    space: Mapping[str, BaseDistribution] | None = None
    known: Known = nothing
    active: Callable[[Params], Params] = everything
    limits: Limits = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    memory: dict[int, _Lesson] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lesson:
    """What a trial has to learn from."""

    trial: FrozenTrial
    effective: tuple[int, ...] | None
    """Positions in the choices, -1 for what is not in effect; None where a value is not among them."""
    curve: Mapping[int, float]
    costs: Mapping[str, float]
    costs_only: bool = False
    """Whether the parameters may be proposed again: nothing but costs was asked for."""


class InfeasibleSpace(ValueError):
    """No candidate keeps the limits."""


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
        trials = study.get_trials(deepcopy=False)
        others = [other for other in trials if other.number != trial.number]
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        names = self.knowledge.names or [str(column) for column in range(len(signs))]
        if len(signs) != len(names):
            raise ValueError(f"names: {len(names)} are given, the study has {len(signs)} objectives")
        limits = {name: (-np.inf, 0.0) for other in others for name in _constraints(other)}
        knowledge = replace(self.knowledge, names=names, limits={**self.knowledge.limits, **limits})
        space = Space(search_space, knowledge.active, self._draw)
        memory = knowledge.memory if knowledge.space is not None else {}  # else the space changes with the trials
        lessons = [_lesson(space, other, memory) for other in others]
        return _Proposal(knowledge, signs, space, lessons, self._draw).best()

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self._constraints is not None:
            _process_constraints_after_trial(self._constraints, study, trial, state)


@dataclass
class _Candidates:
    rows: Rows
    effective: Rows
    known: list[Mapping[str, float]]

    def concatenated(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.effective, other.effective]),
            self.known + other.known,
        )


class _Proposal:
    """One proposal: models fitted to the trials, candidates judged by them."""

    def __init__(
        self,
        knowledge: Knowledge,
        signs: list[int],
        space: Space,
        lessons: list[_Lesson],
        draw: np.random.Generator,
    ):
        self.knowledge, self.signs, self.space, self.draw = knowledge, signs, space, draw
        lessons = [lesson for lesson in lessons if lesson.effective is not None]
        self.seen: set[Hashable] = {lesson.effective for lesson in lessons if not lesson.costs_only}
        lessons = _most_telling(lessons, signs)
        self.trials = [lesson.trial for lesson in lessons]
        rows = [lesson.effective for lesson in lessons]
        self.effective = np.array(rows, int).reshape(len(rows), len(space.names))
        self.complete = np.array([other.state == TrialState.COMPLETE for other in self.trials], bool)
        self.running = np.array([other.state == TrialState.RUNNING for other in self.trials], bool)
        self.curves = [lesson.curve for lesson in lessons]
        self.costs = [lesson.costs for lesson in lessons]
        self.early = bool(self.complete.sum() < STARTUP)
        # until enough are complete, all that have a curve are compared
        begun = np.array([bool(curve) for curve in self.curves], bool)
        self.judges = self.complete | begun if self.early else self.complete
        self.known_names = set(knowledge.known(space.params(space.random(1, draw)[0])))
        self.unknown = [name for name in knowledge.names if name not in self.known_names]
        self.order = [*self.unknown, *[name for name in knowledge.names if name in self.known_names]]
        if not self.unknown:
            raise ValueError(
                f"objectives: {', '.join(knowledge.names)} are known before any training, so there is nothing to "
                "learn; the surrogate needs one that only training tells"
            )

    def best(self) -> Params:
        if self.judges.sum() < STARTUP:
            found = self._feasible(lambda: self.space.random(RANDOM, self.draw))
            return self.space.params(found.rows[self._most_different(found.effective)])
        self._fit()
        parents = self._parents()
        candidates = self._feasible(
            lambda: np.concatenate([self.space.random(RANDOM, self.draw), self._children(parents, CHILDREN)])
        )
        scores = self._scores(candidates)
        for _ in range(ROUNDS):
            best = candidates.rows[np.argsort(-scores, kind="stable")[:BEST]]
            more = self._judged(self._mutated(best[self.draw.integers(len(best), size=NEIGHBOURS)]))
            candidates, scores = candidates.concatenated(more), np.concatenate([scores, self._scores(more)])
        return self.space.params(candidates.rows[int(np.argmax(scores))])

    def _most_different(self, effective: Rows) -> int:
        """Which of the rows differs in most parameters from the trial that is most like it."""
        if not len(self.effective):
            return 0
        return int(np.argmax((effective[:, None] != self.effective).mean(axis=2).min(axis=1)))

    def _fit(self) -> None:
        """A model for every objective and limited quantity that is not known, and the front that they see."""
        self.models: dict[str, Ensemble] = {}
        limited = [name for name in self.knowledge.limits if name not in self.known_names]
        seed = int(self.draw.integers(2**32))
        for name in dict.fromkeys([*self.unknown, *limited]):
            values, noise = self._observed(name)
            there = np.flatnonzero(np.isfinite(values))
            if len(there) >= 2:
                self.models[name] = Ensemble(
                    self.space.sizes.tolist(), self.space.numeric, self.effective[there], values[there], noise[there],
                    self.effective[self.running & ~np.isfinite(values)], seed,
                )  # fmt: skip
        judged = np.flatnonzero(self.judges | self.running)
        known = [self._known(int(position)) for position in judged]
        mean, _ = self._predict(self.effective[judged], known, spreads=False)
        judges = self.judges[judged]
        self.worst = reference_point(mean[judges])
        of_use = self.knowledge.reference
        self.reference = np.array(
            [
                self._sign(name) * of_use[name] if name in of_use else worst
                for name, worst in zip(self.order, self.worst, strict=True)
            ]
        )
        kept = np.array([self._keeps(values) for values in known], bool)
        parents = judges & kept if (judges & kept).any() else judges
        self.front_rows = judged[parents][pareto_mask(mean[parents])]
        self.front = mean[kept]

    def _observed(self, name: str) -> tuple[Array, Array]:
        """What the trials have of a quantity, lower is better where it is an objective, and its additional variance."""
        values, noise = np.full(len(self.trials), np.nan), np.zeros(len(self.trials))
        if name not in self.knowledge.names:
            values[:] = [costs.get(name, np.nan) for costs in self.costs]
            return values, noise
        column = list(self.knowledge.names).index(name)
        for at, other in enumerate(self.trials):
            if self.complete[at]:
                values[at] = self.signs[column] * other.values[column]
            elif name in self.costs[at]:
                values[at] = self.signs[column] * self.costs[at][name]
        if any(name in costs for costs in self.costs):
            return values, noise
        self._extrapolate(values, noise, self.signs[column])
        return _tempered(values), noise

    def _extrapolate(self, values: Array, noise: Array, sign: int) -> None:
        """Fill in trials that are not complete: a straight line from their last epoch to the end, as the others went.

        Where too few are complete, the end is, for all, the last epoch that enough have come to.
        """
        last = [max(curve, default=0) for curve in self.curves]
        end = sorted(last)[-STARTUP] if len(last) >= STARTUP else 0
        if self.early and end:
            values[:] = [sign * curve[end] if end in curve else np.nan for curve in self.curves]
        there = np.flatnonzero(np.isfinite(values))
        for at in np.flatnonzero(~np.isfinite(values)):
            if not (epoch := last[at]):
                continue
            ends = [(sign * self.curves[i][epoch], values[i]) for i in there if epoch in self.curves[i]]
            if len(ends) < FEWEST_CURVES:
                continue
            then, ended = np.array(ends).T
            slope = max(float(np.cov(then, ended)[0, 1] / max(np.var(then, ddof=1), 1e-12)), 0.0)
            off = ended - ended.mean() - slope * (then - then.mean())
            values[at] = ended.mean() + slope * (sign * self.curves[at][epoch] - then.mean())
            noise[at] = float((off**2).sum() / max(len(ends) - 2, 1))

    def _known(self, position: int) -> Mapping[str, float]:
        """Values of a trial that need no model: those known, and those measured before its training."""
        other = self.trials[position]
        exact = dict(self.knowledge.known({name: other.params[name] for name in self.space.names}))
        return {**self.costs[position], **exact}

    def _predict(
        self, effective: Rows, known: Sequence[Mapping[str, float]], spreads: bool = True
    ) -> tuple[Array, Array]:
        """Mean and spread [N, M] (0 if not asked for) of the objectives, lower is better, those to be learned first."""
        mean, spread = np.zeros((2, len(effective), len(self.order)))
        for column, name in enumerate(self.order):
            if name in self.models and spreads:
                mean[:, column], spread[:, column] = self.models[name].predict(effective)
            elif name in self.models:
                mean[:, column] = self.models[name].middle(effective)
            for row, values in enumerate(known):
                if name in values:
                    mean[row, column], spread[row, column] = self._sign(name) * values[name], 0.0
        return mean, spread

    def _sign(self, name: str) -> int:
        """-1 for an objective of which more is better, else 1."""
        return self.signs[list(self.knowledge.names).index(name)]

    def _scores(self, candidates: _Candidates) -> Array:
        """Expected gain of hypervolume [N], times the probability of keeping the limits."""
        if not len(candidates.rows):
            return np.zeros(0)
        mean, spread = self._predict(candidates.effective, candidates.known)
        gain = expected_hypervolume_improvement(mean, spread, self.front, self.reference)
        if not gain.any():  # nothing is expected to be of use: what is nearest to it
            gain = expected_hypervolume_improvement(mean, spread, self.front, np.maximum(self.worst, self.reference))
        for name, (low, high) in self.knowledge.limits.items():
            if name in self.models:
                if name in self.knowledge.names and self._sign(name) < 0:
                    low, high = -high, -low
                gain = gain * self.models[name].within(low, high, candidates.effective)
        return gain

    def _feasible(self, draw: Callable[[], Rows]) -> _Candidates:
        """Candidates that keep the known limits and repeat no trial; where none was drawn, neighbours of such as keep
        them: of trials, and of what a descent finds.
        """
        found = self._judged(draw())
        if len(found.rows):
            return found
        keeping = self._keeping()
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            near = self._mutated(keeping[self.draw.integers(len(keeping), size=RANDOM)])
            found = self._judged(np.concatenate([keeping, near]))
            if len(found.rows):
                return found
        return _Candidates(keeping, keeping, [{}] * len(keeping))  # nothing new is left: a repeat

    def _keeping(self) -> Rows:
        """Some rows within the known limits: the latest trials', and ends of descents. Raises InfeasibleSpace."""
        rows = [self.space.row(other.params) for other in self.trials]
        kept = [row for row in rows if row is not None and self._excess(row) == 0][-ENOUGH_FEASIBLE:]
        starts = self.space.random(RANDOM, self.draw).tolist()
        starts.sort(key=self._excess)
        nearest, least = starts[0], np.inf
        for start in starts[:DESCENTS]:
            if len(kept) >= ENOUGH_FEASIBLE:
                break
            row, excess = self._descended(start)
            if excess == 0:
                kept.append(row)
            elif excess < least:
                nearest, least = row, excess
        if not kept:
            limits = ", ".join(f"{name} {_range_in_words(*bounds)}" for name, bounds in self.knowledge.limits.items())
            values = self.knowledge.known(self.space.params(nearest))
            found = ", ".join(f"{name} {values[name]:g}" for name in self.knowledge.limits if name in values)
            raise InfeasibleSpace(
                f"constraints: no candidate has {limits}; the nearest of {DESCENTS} descents: {found}"
            )
        return np.array(kept, int).reshape(len(kept), len(self.space.names))

    def _descended(self, row: list[int]) -> tuple[list[int], float]:
        """Where a row ends that goes down its excess, one parameter after the other, and the excess there."""
        excess, before = self._excess(row), np.inf
        while 0 < excess < before:
            before = excess
            for column in self.draw.permutation(len(row)).tolist():
                options = [[*row[:column], value, *row[column + 1 :]] for value in range(self.space.sizes[column])]
                found = [self._excess(option) for option in options]
                row, excess = options[int(np.argmin(found))], min(found)
        return row, excess

    def _excess(self, row: Sequence[int]) -> float:
        """How far a row is outside of the known limits, in parts of these, summed; 0 within them."""
        values, excess = self.knowledge.known(self.space.params(row)), 0.0
        for name, (low, high) in self.knowledge.limits.items():
            if name in values:
                excess += max(values[name] - high, 0.0) / (abs(high) or 1.0)
                excess += max(low - values[name], 0.0) / (abs(low) or 1.0)
        return excess

    def _judged(self, rows: Rows) -> _Candidates:
        """Those of the rows that are new, distinct and within the known limits."""
        kept, effective, known, there = [], [], [], set(self.seen)
        for row in rows.tolist():
            params = self.space.params(row)
            key = tuple(active := self.space.in_effect(params))
            if key in there:
                continue
            there.add(key)
            values = self.knowledge.known(params)
            if self._keeps(values):
                kept.append(row)
                effective.append(active)
                known.append(values)
        shape = (len(kept), len(self.space.names))
        return _Candidates(np.array(kept, int).reshape(shape), np.array(effective, int).reshape(shape), known)

    def _keeps(self, values: Mapping[str, float]) -> bool:
        return all(low <= values[name] <= high for name, (low, high) in self.knowledge.limits.items() if name in values)

    def _parents(self) -> Rows:
        return self._rows_of(self.front_rows)

    def _rows_of(self, positions: Iterable[int]) -> Rows:
        rows = [self.space.row(self.trials[position].params) for position in positions]
        return np.array(rows, int).reshape(len(rows), len(self.space.names))

    def _children(self, parents: Rows, count: int) -> Rows:
        """Half of them mutated copies of a parent, half of them mutated mixtures of two."""
        mothers, fathers = parents[self.draw.integers(len(parents), size=(2, count))]
        mixed = self.draw.random(mothers.shape) < np.where(np.arange(count) % 2, 0.5, 0.0)[:, None]
        return self._mutated(np.where(mixed, fathers, mothers))

    def _mutated(self, rows: Rows) -> Rows:
        """One to three changes on average."""
        share = self.draw.choice([1, 2, 3], size=(len(rows), 1)) / rows.shape[1]
        return np.where(self.draw.random(rows.shape) < share, self.space.random(len(rows), self.draw), rows)


def _range_in_words(low: float, high: float) -> str:
    if low == -np.inf:
        return f"at most {high:g}"
    return f"at least {low:g}" if high == np.inf else f"from {low:g} to {high:g}"


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    """What `constraints_func` said of a trial, by names of our own."""
    return {f"constraint {at}": float(value) for at, value in enumerate(trial.system_attrs.get("constraints") or ())}


def _attribute(trial: FrozenTrial, name: str) -> Any:
    """A user attribute of ours, written as JSON; None where it is absent or somebody else's."""
    try:
        return json.loads(trial.user_attrs[name])
    except (KeyError, TypeError, ValueError):
        return None


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """Values after epochs, the first of which is 1; what was reported to a pruner counts its steps from 0."""
    try:
        given = dict(
            _attribute(trial, "curve") or {step + 1: value for step, value in trial.intermediate_values.items()}
        )
        return {int(epoch): float(value) for epoch, value in given.items() if np.isfinite(value)}
    except (TypeError, ValueError):
        return {}


def _lesson(space: Space, trial: FrozenTrial, memory: dict[int, _Lesson]) -> _Lesson:
    """What a trial has to learn from; of a finished one, which does not change any more, from memory."""
    if (kept := memory.get(trial.number)) is not None and kept.trial is trial:
        return kept
    costs = _attribute(trial, "costs")
    lesson = _Lesson(
        trial,
        None
        if space.row(trial.params) is None
        else tuple(space.in_effect({name: trial.params[name] for name in space.names})),
        _curve(trial),
        (costs if isinstance(costs, dict) else {}) | _constraints(trial),
        _attribute(trial, "costs_only") is True,
    )
    if trial.state.is_finished():
        memory[trial.number] = lesson
    return lesson


def _most_telling(lessons: list[_Lesson], signs: Sequence[int]) -> list[_Lesson]:
    """All lessons where they are few; else, in their order, those of running trials, half of the others by the fronts
    that they are on, the first ones first, and the latest."""
    if len(lessons) <= MOST_POINTS:
        return lessons
    states = [lesson.trial.state for lesson in lessons]
    running = [at for at, state in enumerate(states) if state == TrialState.RUNNING]
    complete = np.array([at for at, state in enumerate(states) if state == TrialState.COMPLETE], int)
    points = np.array([lessons[at].trial.values for at in complete]).reshape(len(complete), len(signs)) * signs
    best: list[int] = []
    while len(complete) and len(best) < MOST_POINTS // 2:
        front = pareto_mask(points)
        best += complete[front].tolist()
        complete, points = complete[~front], points[~front]
    kept = {*running, *best[: MOST_POINTS // 2]}
    telling = (
        at
        for at in reversed(range(len(lessons)))
        if lessons[at].curve or lessons[at].costs or states[at] == TrialState.COMPLETE
    )
    for at in telling:
        if len(kept) >= MOST_POINTS + len(running):
            break
        kept.add(at)
    return [lessons[at] for at in sorted(kept)]


def _tempered(values: Array) -> Array:
    """Without values so bad that they would outweigh all others: a diverged training is merely bad."""
    there = values[np.isfinite(values)]
    if not len(there):
        return values
    best, middle = there.min(), np.median(there)
    return np.minimum(values, middle + 2 * max(middle - best, 1e-12))
