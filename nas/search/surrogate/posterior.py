"""What the trials of a study say of networks: a model for every quantity that is not known, and the front so far."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from nas.runs.pareto import pareto_mask, reference_point
from nas.search.surrogate.axes import Rows, Space
from nas.search.surrogate.candidates import Candidates, Pool
from nas.search.surrogate.extrapolation import ends_of_curves
from nas.search.surrogate.improvement import expected_hypervolume_improvement
from nas.search.surrogate.knowledge import Knowledge
from nas.search.surrogate.lessons import Lesson, most_telling
from nas.search.surrogate.model import Ensemble

Array = NDArray[np.float64]

STARTUP = 6


class Posterior:
    """Models of the objectives and limited quantities, once `fit`, and what they say of candidates.

    Trials that are complete and those under way, by what is predicted of them, are the front; those that wait are not.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        signs: list[int],
        space: Space,
        lessons: Sequence[Lesson],
        draw: np.random.Generator,
        waiting: Collection[int] = (),
    ):
        """`waiting` are the numbers of trials that nobody trains, though they may go on."""
        self.knowledge, self.signs, self.space, self.draw = knowledge, signs, space, draw
        lessons = [lesson for lesson in lessons if lesson.effective is not None]
        seen: set[Hashable] = {lesson.effective for lesson in lessons if not lesson.costs_only}
        lessons = most_telling(lessons, signs)
        self.trials = [lesson.trial for lesson in lessons]
        self.pool = Pool(knowledge, space, self.trials, seen, draw)
        rows = [lesson.effective for lesson in lessons]
        self.effective = np.array(rows, int).reshape(len(rows), len(space.names))
        self.complete = np.array([other.state == TrialState.COMPLETE for other in self.trials], bool)
        self.running = np.array([other.state == TrialState.RUNNING for other in self.trials], bool)
        self.waiting = np.array([other.number in waiting for other in self.trials], bool)
        self.curves = [lesson.curve for lesson in lessons]
        self.costs = [lesson.costs for lesson in lessons]
        self.early = bool(self.complete.sum() < STARTUP)
        # until enough are complete, all that have a curve are compared
        begun = np.array([bool(curve) for curve in self.curves], bool)
        self.judges = self.complete | begun if self.early else self.complete
        anyone = space.params(space.random(1, draw)[0])
        self.known_names, self.estimated_names = set(knowledge.known(anyone)), set(knowledge.estimated(anyone))
        self.unknown = [name for name in knowledge.names if name not in self.known_names]
        self.order = [*self.unknown, *[name for name in knowledge.names if name in self.known_names]]
        if not self.unknown:
            raise ValueError(
                f"objectives: {', '.join(knowledge.names)} are known before any training, so there is nothing to "
                "learn; the surrogate needs one that only training tells"
            )

    def fit(self) -> None:
        self.trained = 0
        """The column of the objective that has curves."""
        self.left: dict[int, float] = {}
        """By epoch, the variance of what the end of a training is, for one that has come there."""
        self.variance = 0.0
        """Of all ends that are known or expected."""
        limited = [name for name in self.knowledge.limits if name not in self.known_names]
        seed = int(self.draw.integers(2**32))
        found = {name: self._fitted(name, seed) for name in dict.fromkeys([*self.unknown, *limited])}
        self.models = {name: model for name, model in found.items() if model}
        begun = self.complete | np.array([bool(curve) for curve in self.curves], bool)
        first = begun & (np.cumsum(begun) <= STARTUP)  # random ones: what else comes to its end may be of one kind
        judged = np.flatnonzero(self.judges | self.running | first)
        known = [self.known(int(position)) for position in judged]
        mean, _ = self.predict(self.effective[judged], known, spreads=False)
        judges = self.judges[judged]
        self.worst = reference_point(mean[(self.complete | first)[judged]])
        of_use = self.knowledge.reference
        self.reference = np.array(
            [
                self.sign(name) * of_use[name] if name in of_use else worst
                for name, worst in zip(self.order, self.worst, strict=True)
            ]
        )
        kept = np.array([self.pool.keeps(values) for values in known], bool)
        parents = judges & kept if (judges & kept).any() else judges
        self.front_rows = judged[parents][pareto_mask(mean[parents])]
        self.front = mean[kept & ((self.judges | self.running) & ~self.waiting)[judged]]

    def _fitted(self, name: str, seed: int) -> Ensemble | None:
        """A model of a quantity, or of its quotient to what is roughly known; None of fewer than two values."""
        values, noise = self._observed(name)
        pending = self.effective[self.running & ~np.isfinite(values)]
        further = self.knowledge.repeats.get(name, {})
        again = [(at, value) for at, other in enumerate(self.trials) for value in further.get(other.number, ())]
        rows = np.concatenate([self.effective, self.effective[[at for at, _ in again]]])
        values = np.append(values, [self.sign(name) * value for _, value in again]) / self._estimates(name, rows)
        noise = np.append(noise, np.zeros(len(again)))
        there = np.isfinite(values)
        if there.sum() < 2:
            return None
        return Ensemble(
            self.space.sizes.tolist(),
            self.space.numeric,
            rows[there],
            values[there],
            noise[there],
            pending,
            seed,
            name in self.estimated_names,
        )

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
        sign = self.signs[column]
        curves = [{epoch: sign * value for epoch, value in curve.items()} for curve in self.curves]
        ends = ends_of_curves(curves, self.effective, self.space)
        begun = np.isnan(values) & np.isfinite(ends.values)
        values[begun], noise[begun], self.left = ends.values[begun], ends.noise[begun], ends.left
        self.variance, self.trained = float(np.var(values[np.isfinite(values)])), self.order.index(name)
        return _tempered(values), noise

    def known(self, position: int) -> Mapping[str, float]:
        """Values of a trial that need no model: those known, and those measured before its training."""
        other = self.trials[position]
        exact = dict(self.knowledge.known({name: other.params[name] for name in self.space.names}))
        return {**self.costs[position], **exact}

    def predict(
        self, effective: Rows, known: Sequence[Mapping[str, float]], spreads: bool = True
    ) -> tuple[Array, Array]:
        """Mean and spread [N, M] (0 if not asked for) of the objectives, lower is better, those to be learned first."""
        mean, spread = np.zeros((2, len(effective), len(self.order)))
        for column, name in enumerate(self.order):
            estimates = self._estimates(name, effective)
            if name in self.models and spreads:
                mean[:, column], spread[:, column] = np.array(self.models[name].predict(effective)) * estimates
            elif name in self.models:
                mean[:, column] = self.models[name].middle(effective) * estimates
            for row, values in enumerate(known):
                if name in values:
                    mean[row, column], spread[row, column] = self.sign(name) * values[name], 0.0
        return mean, spread

    def sign(self, name: str) -> int:
        """-1 for an objective of which more is better, else 1."""
        return self.signs[list(self.knowledge.names).index(name)]

    def scores(self, candidates: Candidates) -> Array:
        """Expected gain of hypervolume [N], times the probability of keeping the limits."""
        if not len(candidates.rows):
            return np.zeros(0)
        mean, spread = self.predict(candidates.effective, candidates.known)
        gain = self.gain(mean, spread)
        if not gain.any():  # nothing is expected to be of use: what is nearest to it
            gain = expected_hypervolume_improvement(mean, spread, self.front, np.maximum(self.worst, self.reference))
        return gain * self.allowed(candidates.effective)

    def gain(self, mean: Array, spread: Array) -> Array:
        """Expected gain of hypervolume [N]."""
        return expected_hypervolume_improvement(mean, spread, self.front, self.reference)

    def allowed(self, effective: Rows) -> Array:
        """Probability [N] of keeping the limits that are learned."""
        found = np.ones(len(effective))
        for name, (low, high) in self.knowledge.limits.items():
            if name in self.models:
                if name in self.knowledge.names and self.sign(name) < 0:
                    low, high = -high, -low
                estimates = self._estimates(name, effective)
                found = found * self.models[name].within(low / estimates, high / estimates, effective)
        return found

    def _estimates(self, name: str, effective: Rows) -> Array:
        """What is roughly known [N] of a quantity, 1 where nothing is: its model is of the quotient."""
        if name not in self.estimated_names:
            return np.ones(len(effective))
        remembered = self.knowledge.estimates
        for row in map(tuple, effective.tolist()):
            if row not in remembered:  # what is not in effect may have any value
                remembered[row] = self.knowledge.estimated(self.space.params([max(at, 0) for at in row]))
        return np.array([remembered[row][name] for row in map(tuple, effective.tolist())])


def _tempered(values: Array) -> Array:
    """Without values so bad that they would outweigh all others: a diverged training is merely bad."""
    there = values[np.isfinite(values)]
    if not len(there):
        return values
    best, middle = there.min(), np.median(there)
    return np.minimum(values, middle + 2 * max(middle - best, 1e-12))
