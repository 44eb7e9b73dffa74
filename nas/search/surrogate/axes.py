"""Parameters of an Optuna study as positions: of few values in their list, of others in cells of their range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Rows = NDArray[np.int64]
Params = dict[str, Any]

MOST_LEVELS, CELLS = 1000, 64
"""Numbers with more values than that are cut into so many cells."""


class Levels:
    """A parameter of few values: positions in their list."""

    def __init__(self, values: list[Any]):
        self._values, self.size = values, len(values)
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        self.is_number = is_number and values == sorted(values)
        self.at = {value: at for at, value in enumerate(values)}.get
        """The position of a value; None where it is none of them."""

    def value(self, position: int) -> Any:
        return self._values[position]


class Cells:
    """A number of many values: positions are those of equal parts of its range, or of the range's logarithm."""

    size, is_number = CELLS, True

    def __init__(self, distribution: IntDistribution | FloatDistribution, draw: np.random.Generator):
        self._given, self._draw = distribution, draw
        self._low, self._high = float(distribution.low), float(distribution.high)
        self._step = 1 if isinstance(distribution, IntDistribution) and distribution.log else distribution.step
        half = (self._step or 0.0) / 2  # the first and the last of the steps have as much of the range as the others
        self._inside, self._outside = (np.log, np.exp) if distribution.log else (np.positive, np.positive)
        self._edges = np.linspace(self._inside(self._low - half), self._inside(self._high + half), CELLS + 1)

    def at(self, value: float) -> int | None:
        if not self._low <= value <= self._high:
            return None
        return min(max(int(np.searchsorted(self._edges, self._inside(value), "right")) - 1, 0), CELLS - 1)

    def value(self, position: int) -> float | int:
        """One of the cell, at random."""
        found = float(self._outside(self._draw.uniform(self._edges[position], self._edges[position + 1])))
        if self._step:
            found = self._low + round((found - self._low) / self._step) * self._step
        found = min(max(found, self._low), self._high)
        return int(found) if isinstance(self._given, IntDistribution) else found


class Space:
    """A flat space as positions on axes."""

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        active: Callable[[Params], Params],
        draw: np.random.Generator,
    ):
        self.names = list(search_space)
        self.axes = [axis_of(distribution, draw) for distribution in search_space.values()]
        self.sizes = np.array([axis.size for axis in self.axes])
        self.numeric = [axis.is_number for axis in self.axes]
        self.active = active

    def random(self, count: int, draw: np.random.Generator) -> Rows:
        return draw.integers(0, self.sizes, size=(count, len(self.sizes)))

    def params(self, row: Sequence[int]) -> Params:
        return {name: axis.value(at) for name, axis, at in zip(self.names, self.axes, row, strict=True)}

    def row(self, params: Params) -> list[int] | None:
        """Positions; None where a parameter is missing or has a value that is not offered."""
        found = [
            axis.at(params[name]) if name in params else None for name, axis in zip(self.names, self.axes, strict=True)
        ]
        return None if None in found else cast(list[int], found)

    def in_effect(self, params: Params) -> list[int]:
        """Positions, -1 for what is not in effect."""
        active = self.active(params)
        found = [
            axis.at(active[name]) if name in active else -1 for name, axis in zip(self.names, self.axes, strict=True)
        ]
        return cast(list[int], found)


def axis_of(distribution: BaseDistribution, draw: np.random.Generator) -> Levels | Cells:
    if isinstance(distribution, CategoricalDistribution):
        return Levels(list(distribution.choices))
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        raise ValueError(f"{distribution}: allowed are categorical, integer and floating-point parameters")
    if distribution.single():
        return Levels([distribution.low])
    if isinstance(distribution, IntDistribution) and not distribution.log:
        values = range(distribution.low, distribution.high + 1, distribution.step)
        if len(values) <= MOST_LEVELS:
            return Levels(list(values))
    return Cells(distribution, draw)
