"""The ends of learning curves: a straight line from epoch to epoch, and what networks differ from it by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.search.surrogate.axes import Rows, Space
from nas.search.surrogate.model import Ensemble

Array = NDArray[np.float64]

FEWEST_CURVES, MOST_STEPS = 5, 8
PRIOR_CURVES, PRIOR_SLOPE, PRIOR_SHARE = 2.0, 1.0, 0.5
"""As many curves are imagined, of that slope, which leave that share of the spread unexplained."""


@dataclass
class Ends:
    """Values [N] that trials have at the last epoch, or are expected to have, and the variance [N] of these; NaN and 0
    where a trial has no curve. `left` is the variance that is left, on average, after each of the epochs that
    trainings wait at."""

    values: Array
    noise: Array
    left: dict[int, float]


def ends_of_curves(curves: Sequence[Mapping[int, float]], effective: Rows, space: Space) -> Ends:
    """Curves [N] (lower is better) to the last epoch of the longest, one step of those that some have stopped at after
    the other.

    A process over networks and epochs, autoregressive in the epochs (Kennedy and O'Hagan,
    https://doi.org/10.1093/biomet/87.1.1): what a network has at one of them is a line in what it had at the one
    before, and an own process over networks (`model.Ensemble`), in which the pace of every operator is learned.
    """
    last = _last_epochs(curves)
    steps = sorted({int(epoch) for epoch in last if epoch})
    values, noise = np.full(len(curves), np.nan), np.zeros(len(curves))
    grown: dict[int, list[tuple[float, float]]] = {}
    for begin, end in itertools.pairwise(steps):
        values[last == begin] = [curves[at][begin] for at in np.flatnonzero(last == begin).tolist()]
        there = np.flatnonzero((last > 0) & (last <= begin))  # by what they are expected to have after `begin`
        pairs = np.flatnonzero([begin in curve and end in curve for curve in curves])
        then, ended = (np.array([curves[at][epoch] for at in pairs.tolist()]) for epoch in (begin, end))
        slope, line_at = _line(then, ended, values[there])
        mean, variance = _residual(effective, pairs, there, ended - line_at(then), values[there], space)
        values[there] = line_at(values[there]) + mean
        noise[there] = slope**2 * noise[there] + variance
        grown[begin] = []
        for parts in grown.values():
            parts.append((slope, float(variance.mean())))
    if steps:
        values[last == steps[-1]] = [curves[at][steps[-1]] for at in np.flatnonzero(last == steps[-1]).tolist()]
    left = {}
    for begin, parts in grown.items():
        total = 0.0
        for slope, variance in parts:
            total = slope**2 * total + variance
        left[begin] = total
    return Ends(values, noise, left)


def _last_epochs(curves: Sequence[Mapping[int, float]]) -> Rows:
    """The last epoch of each curve, 0 of an empty one; where they are of too many kinds, the last of the commonest."""
    last = np.array([max(curve, default=0) for curve in curves], int)
    kinds, counts = np.unique(last[last > 0], return_counts=True)
    if len(kinds) <= MOST_STEPS:
        return last
    steps = {*kinds[np.argsort(-counts, kind="stable")[: MOST_STEPS - 1]].tolist(), int(kinds[-1])}
    return np.array([max(steps & curve.keys(), default=0) for curve in curves], int)


def _line(then: Array, ended: Array, others: Array) -> tuple[float, Callable[[Array], Array]]:
    """Slope, and the line that a value follows; of few curves it is near to the identity with a shift."""
    everyone = np.concatenate([then, others])
    imagined = PRIOR_CURVES * max(float(np.var(everyone)), 1e-12)
    if not len(then):
        return PRIOR_SLOPE, lambda value: value
    then_mean, ended_mean = float(then.mean()), float(ended.mean())
    moved = float(((then - then_mean) * (ended - ended_mean)).sum()) + imagined * PRIOR_SLOPE
    slope = max(moved / (float(((then - then_mean) ** 2).sum()) + imagined), 0.0)
    return slope, lambda value: ended_mean + slope * (value - then_mean)


def _residual(
    effective: Rows, pairs: Rows, there: Rows, off: Array, values: Array, space: Space
) -> tuple[Array, Array]:
    """Mean and variance [N] of what networks differ from the line by."""
    imagined = PRIOR_SHARE**2 * max(float(np.var(values)), 1e-12)
    if len(pairs) < FEWEST_CURVES:
        spread = (float((off**2).sum()) + PRIOR_CURVES * imagined) / (len(pairs) + PRIOR_CURVES)
        return np.zeros(len(there)), np.full(len(there), spread)
    model = Ensemble(space.sizes.tolist(), space.numeric, effective[pairs], off)
    mean, spread = model.predict(effective[there], noisy=True)
    return mean, spread**2
