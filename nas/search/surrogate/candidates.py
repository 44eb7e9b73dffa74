"""Candidates: distinct, new, within the known limits; random ones, children of good ones, ends of descents."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.trial import FrozenTrial

from nas.search.surrogate.axes import Rows, Space
from nas.search.surrogate.knowledge import InfeasibleSpace, Knowledge

RANDOM = 250
DRAWS_BEFORE_GIVING_UP = 20
DESCENTS, ENOUGH_FEASIBLE = 40, 8


@dataclass
class Candidates:
    rows: Rows
    effective: Rows
    known: list[Mapping[str, float]]

    def concatenated(self, other: Candidates) -> Candidates:
        return Candidates(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.effective, other.effective]),
            self.known + other.known,
        )


class Pool:
    """Where candidates come from: a space, its limits, and the trials that must not be repeated."""

    def __init__(
        self,
        knowledge: Knowledge,
        space: Space,
        trials: Sequence[FrozenTrial],
        seen: set[Hashable],
        draw: np.random.Generator,
    ):
        """`seen` are the positions in effect of what is not to be proposed."""
        self.knowledge, self.space, self.trials, self.seen, self.draw = knowledge, space, trials, seen, draw

    def feasible(self, draw: Callable[[], Rows]) -> Candidates:
        """Candidates that keep the known limits and repeat no trial; where none was drawn, neighbours of such as keep
        them: of trials, and of what a descent finds.
        """
        found = self.judged(draw())
        if len(found.rows):
            return found
        keeping = self._keeping()
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            near = self.mutated(keeping[self.draw.integers(len(keeping), size=RANDOM)])
            found = self.judged(np.concatenate([keeping, near]))
            if len(found.rows):
                return found
        return Candidates(keeping, keeping, [{}] * len(keeping))  # nothing new is left: a repeat

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

    def judged(self, rows: Rows) -> Candidates:
        """Those of the rows that are new, distinct and within the known limits."""
        kept, effective, known, there = [], [], [], set(self.seen)
        for row in rows.tolist():
            params = self.space.params(row)
            key = tuple(active := self.space.in_effect(params))
            if key in there:
                continue
            there.add(key)
            values = self.knowledge.known(params)
            if self.keeps(values):
                kept.append(row)
                effective.append(active)
                known.append(values)
        shape = (len(kept), len(self.space.names))
        return Candidates(np.array(kept, int).reshape(shape), np.array(effective, int).reshape(shape), known)

    def keeps(self, values: Mapping[str, float]) -> bool:
        return all(low <= values[name] <= high for name, (low, high) in self.knowledge.limits.items() if name in values)

    def rows_of(self, positions: Iterable[int]) -> Rows:
        rows = [self.space.row(self.trials[position].params) for position in positions]
        return np.array(rows, int).reshape(len(rows), len(self.space.names))

    def children(self, parents: Rows, count: int) -> Rows:
        """Half of them mutated copies of a parent, half of them mutated mixtures of two."""
        mothers, fathers = parents[self.draw.integers(len(parents), size=(2, count))]
        mixed = self.draw.random(mothers.shape) < np.where(np.arange(count) % 2, 0.5, 0.0)[:, None]
        return self.mutated(np.where(mixed, fathers, mothers))

    def mutated(self, rows: Rows) -> Rows:
        """One to three changes on average."""
        share = self.draw.choice([1, 2, 3], size=(len(rows), 1)) / rows.shape[1]
        return np.where(self.draw.random(rows.shape) < share, self.space.random(len(rows), self.draw), rows)


def _range_in_words(low: float, high: float) -> str:
    if low == -np.inf:
        return f"at most {high:g}"
    return f"at least {low:g}" if high == np.inf else f"from {low:g} to {high:g}"
