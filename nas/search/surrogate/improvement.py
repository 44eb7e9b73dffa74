"""Expected hypervolume improvement of candidates; lower is better in every objective."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.runs.pareto import farthest_points, pareto_mask

Array = NDArray[np.float64]
MOST_CELLS = 4000


def expected_hypervolume_improvement(mean: Array, spread: Array, front: Array, reference: Array) -> Array:
    """Expected gain [N] of hypervolume by candidates whose objectives are independent normals, mean and spread [N, M].

    A spread of 0 is a value known exactly. The space that the front [F, M] leaves below the reference [M] is cut into
    cells along all objectives but the first; in each, a candidate gains the product of what it covers of every side
    (https://arxiv.org/abs/2006.05078), so the result is exact. Where the front would cut more than 4,000 cells (from
    three objectives on), it is thinned to its most distant points.
    """
    front = front[(front < reference).all(axis=1)]
    front = _thinned(front[pareto_mask(front)], mean.shape[1] - 1) if len(front) else front
    # covered[m][n, k]: how much of the side below the k-th bound of objective m candidate n is expected to cover
    bounds = [np.append(np.unique(front[:, m]), reference[m]) for m in range(1, mean.shape[1])]
    sides = [_side(mean[:, m], spread[:, m], bounds[m - 1]) for m in range(1, mean.shape[1])]
    gain = np.zeros(len(mean))
    for cell in product(*[range(len(found)) for found in bounds]):
        inside = np.ones(len(front), bool)
        for m, position in enumerate(cell, start=1):
            inside &= front[:, m] <= (bounds[m - 1][position - 1] if position else -np.inf)
        level = front[inside, 0].min(initial=reference[0])
        part = _below(mean[:, 0], spread[:, 0], level)
        for m, position in enumerate(cell):
            part = part * sides[m][:, position]
        gain += part
    return gain


def _side(mean: Array, spread: Array, bounds: Array) -> Array:
    """Expected length [N, K] that each candidate covers between neighbouring bounds, the first from below."""
    below = np.stack([_below(mean, spread, bound) for bound in bounds], axis=1)
    return np.diff(below, axis=1, prepend=0.0)


def _below(mean: Array, spread: Array, bound: float) -> Array:
    """Expected max(bound - x, 0) [N]."""
    gap = bound - mean
    safe = np.where(spread > 0, spread, 1.0)
    ratio = gap / safe
    uncertain = safe * (ratio * ndtr(ratio) + np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi))
    return np.where(spread > 0, np.maximum(uncertain, 0.0), np.maximum(gap, 0.0))


def _thinned(front: Array, num_sides: int) -> Array:
    """The front, or of a large one the points that are farthest from those taken before, best ones first."""
    most = len(front) if num_sides <= 1 else int(MOST_CELLS ** (1 / num_sides)) - 1
    if len(front) <= most:
        return front
    best = [int(np.argmin(front[:, column])) for column in range(front.shape[1])]
    return front[sorted(farthest_points(front, best, most, norm=np.inf))]
