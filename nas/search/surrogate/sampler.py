"""SurrogateSampler: an Optuna sampler that models what needs training and computes all other costs exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.runs.pareto import pareto_mask, reference_point
from nas.search.surrogate.improvement import expected_hypervolume_improvement
from nas.search.surrogate.model import Ensemble

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Params = dict[str, Any]
Limits = Mapping[str, tuple[float, float]]
Known = Callable[[Params], Mapping[str, float]]

STARTUP = 6
RANDOM, CHILDREN, ROUNDS, NEIGHBOURS, BEST = 250, 500, 2, 150, 20
DRAWS_BEFORE_GIVING_UP = 20
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
    limited quantity that is neither an objective nor known is learned from the trials' attribute `costs`.
    `memory` has what was read of finished trials, by number, so that the next proposal need not.
    """

    names: Sequence[str] = ()
    space: Mapping[str, BaseDistribution] | None = None
    known: Known = nothing
    active: Callable[[Params], Params] = everything
    limits: Limits = field(default_factory=dict)
    memory: dict[int, _Lesson] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lesson:
    """What a trial has to learn from."""

    trial: FrozenTrial
    effective: tuple[int, ...] | None
    """Positions in the choices, -1 for what is not in effect; None where a value is not among them."""
    curve: Mapping[int, float]
    costs: Mapping[str, float]


class InfeasibleSpace(ValueError):
    """No candidate keeps the limits."""


class SurrogateSampler(BaseSampler):
    """Proposes the candidate that is expected to add most to the hypervolume, of any study with a flat space.

    Every objective that is not known has a Gaussian-process ensemble (`model.Ensemble`). Candidates are random points,
    children of the front and neighbours of the best; what repeats a trial or breaks a known limit is none.
    Trials under way count as if they had what is predicted, so proposals of a batch differ. Trials that are not trained
    to the end, running ones or others, count with the user attribute `curve` ([[epoch, value], ...] of the only unknown
    objective): what complete trials made of the same epoch, and how exactly, is what is taken for their end.

    The first proposals, until six trials have values, are random ones that differ most from those before them. The same
    seed and trials give the same proposals. Raises ValueError where nothing needs training, or a parameter is neither
    categorical nor an integer, and InfeasibleSpace where no candidate keeps the known limits.
    """

    def __init__(self, knowledge: Knowledge, seed: int | None = None):
        self.knowledge = knowledge
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
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        others = [other for other in trials if other.number != trial.number]
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        names = self.knowledge.names or [str(column) for column in range(len(signs))]
        if len(signs) != len(names):
            raise ValueError(f"names: {len(names)} are given, the study has {len(signs)} objectives")
        knowledge = replace(self.knowledge, names=names)
        space = _Space(search_space, knowledge)
        memory = knowledge.memory if knowledge.space is not None else {}  # else the space grows with the trials
        lessons = [_lesson(space, other, memory) for other in others]
        return _Proposal(knowledge, signs, space, lessons, self._draw).best()


class _Space:
    """A flat space as positions in lists of choices."""

    def __init__(self, search_space: Mapping[str, BaseDistribution], knowledge: Knowledge):
        self.names = list(search_space)
        self.choices = [_choices(name, distribution) for name, distribution in search_space.items()]
        self.sizes = np.array([len(values) for values in self.choices])
        self.numeric = [_all_numbers(values) for values in self.choices]
        self.positions = [{value: at for at, value in enumerate(values)} for values in self.choices]
        self.active = knowledge.active

    def random(self, count: int, draw: np.random.Generator) -> Rows:
        return draw.integers(0, self.sizes, size=(count, len(self.sizes)))

    def params(self, row: Sequence[int]) -> Params:
        return {name: values[at] for name, values, at in zip(self.names, self.choices, row, strict=True)}

    def row(self, params: Params) -> list[int]:
        return [positions[params[name]] for name, positions in zip(self.names, self.positions, strict=True)]

    def in_effect(self, params: Params) -> list[int]:
        """Positions, -1 for what is not in effect."""
        active = self.active(params)
        return [
            positions[active[name]] if name in active else -1
            for name, positions in zip(self.names, self.positions, strict=True)
        ]


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
        space: _Space,
        lessons: list[_Lesson],
        draw: np.random.Generator,
    ):
        self.knowledge, self.signs, self.space, self.draw = knowledge, signs, space, draw
        lessons = [lesson for lesson in lessons if lesson.effective is not None]
        self.seen: set[Hashable] = {lesson.effective for lesson in lessons}
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
        self.reference = reference_point(mean[judges])
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
        order = [*self.unknown, *[name for name in self.knowledge.names if name not in self.unknown]]
        mean, spread = np.zeros((2, len(effective), len(order)))
        for column, name in enumerate(order):
            sign = self.signs[list(self.knowledge.names).index(name)]
            if name in self.models and spreads:
                mean[:, column], spread[:, column] = self.models[name].predict(effective)
            elif name in self.models:
                mean[:, column] = self.models[name].middle(effective)
            for row, values in enumerate(known):
                if name in values:
                    mean[row, column], spread[row, column] = sign * values[name], 0.0
        return mean, spread

    def _scores(self, candidates: _Candidates) -> Array:
        """Expected gain of hypervolume [N], times the probability of keeping the limits."""
        if not len(candidates.rows):
            return np.zeros(0)
        mean, spread = self._predict(candidates.effective, candidates.known)
        gain = expected_hypervolume_improvement(mean, spread, self.front, self.reference)
        for name, (low, high) in self.knowledge.limits.items():
            if name in self.models:
                if name in self.knowledge.names and self.signs[list(self.knowledge.names).index(name)] < 0:
                    low, high = -high, -low
                gain = gain * self.models[name].within(low, high, candidates.effective)
        return gain

    def _feasible(self, draw: Callable[[], Rows]) -> _Candidates:
        """Candidates that keep the known limits and repeat no trial; drawn again where there are none."""
        found = self._judged(draw())
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            if len(found.rows):
                return found
            found = self._judged(self.space.random(RANDOM, self.draw))
        any_row = self.space.random(RANDOM, self.draw)
        keeps = [self._keeps(self.knowledge.known(self.space.params(row))) for row in any_row]
        if not any(keeps):
            limits = ", ".join(f"{name} {_range_in_words(*bounds)}" for name, bounds in self.knowledge.limits.items())
            raise InfeasibleSpace(f"constraints: none of {RANDOM * DRAWS_BEFORE_GIVING_UP:,} candidates has {limits}")
        return _Candidates(any_row[keeps], any_row[keeps], [{}] * int(np.sum(keeps)))  # nothing new is left: a repeat

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
        rows = [self.space.row(self.trials[position].params) for position in self.front_rows]
        return np.array(rows, int)

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


def _choices(name: str, distribution: BaseDistribution) -> list:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    raise ValueError(f"{name}: {distribution}; the surrogate takes categorical and integer parameters")


def _all_numbers(values: list) -> bool:
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return is_number and values == sorted(values)


def _lesson(space: _Space, trial: FrozenTrial, memory: dict[int, _Lesson]) -> _Lesson:
    """What a trial has to learn from; of a finished one, which does not change any more, from memory."""
    if (kept := memory.get(trial.number)) is not None and kept.trial is trial:
        return kept
    offered = all(trial.params.get(name) in at for name, at in zip(space.names, space.positions, strict=True))
    lesson = _Lesson(
        trial,
        tuple(space.in_effect({name: trial.params[name] for name in space.names})) if offered else None,
        dict(json.loads(trial.user_attrs.get("curve", "[]"))),
        json.loads(trial.user_attrs.get("costs", "{}")),
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
