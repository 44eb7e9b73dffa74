"""Pareto maths on arrays of points, lower is better; and the front of a list of trial records."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.config.sections import ObjectiveConfig


class Trial(Protocol):
    """What the front needs to know of a trial; a TrialRecord is one."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def objectives(self) -> dict[str, float]: ...


T = TypeVar("T", bound=Trial)


def pareto_mask(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of the points [N, M] no other point dominates: [N], lower is better.

    Equal points do not dominate each other, so all copies are kept. A row with a NaN is never on the front.
    """
    points = _matrix(points)
    mask = np.zeros(len(points), bool)
    complete = np.flatnonzero(~np.isnan(points).any(axis=1))
    complete = complete[np.lexsort(points[complete].T[::-1])]
    first = _first_copies(points[complete])
    mask[complete] = _mask_of_distinct(points[complete][first])[np.cumsum(first) - 1]
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume between the points [N, M] and the reference point [M] that they dominate, exact for every M.

    Points that are not below the reference in every objective, or hold a NaN, add nothing. The cost grows quickly
    with M: thousands of front points for two objectives, hundreds for four. Raises ValueError if the shapes disagree
    or the reference is not finite.
    """
    points, reference = _matrix(points), np.asarray(reference, float)
    if reference.shape != points.shape[1:]:
        raise ValueError(f"reference has shape {reference.shape}, allowed is {points.shape[1:]}: one per objective")
    if not np.isfinite(reference).all():
        raise ValueError(f"reference = {reference.tolist()}: allowed are finite numbers")
    return _volume(points[(points < reference).all(axis=1)], reference)


def reference_point(points: ArrayLike) -> NDArray[np.float64]:
    """The reference [M] for a hypervolume where nothing else fixes one.

    The rule: per objective the worst finite value of all points [N, M], and a tenth of the range beyond it, so that the
    extreme points of the front count; where all values are equal, a tenth of their size (1 for zeros). Compare
    hypervolumes of several searches only under one reference, taken from all their points. Raises ValueError without
    any finite point.
    """
    points = _matrix(points)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise ValueError("a reference point needs at least one point that is finite in every objective")
    best, worst = points.min(axis=0), points.max(axis=0)
    size = np.where(worst == 0, 10.0, np.abs(worst))
    return worst + 0.1 * np.where(worst > best, worst - best, size)


def hypervolume_growth(points: ArrayLike, most_steps: int | None = None) -> tuple[list[int], list[float]]:
    """The points [N, M], in the order in which they came, that increased the hypervolume, and its value after each.

    Values are shares of the box between the best values of all points and their `reference_point`. Of more than
    `most_steps` points, so many are taken at equal distances, the first and the last among them.
    """
    points = _matrix(points)
    complete = points[~np.isnan(points).any(axis=1)]
    reference, ideal = reference_point(complete), complete.min(axis=0)
    scaled = (points - ideal) / (reference - ideal)
    improvements = _improvements(scaled)
    steps = improvements
    if most_steps is not None and len(steps) > most_steps:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, most_steps).astype(int)]
    one = np.ones(points.shape[1])
    # only improvements add volume, so each step looks at those alone
    better = np.array(improvements)
    return steps, [hypervolume(scaled[better[better <= step]], one) for step in steps]


def farthest_points(points: ArrayLike, first: Sequence[int], count: int, norm: float = 2) -> list[int]:
    """Rows of the points [N, M] that lie far apart: `first`, then one after the other the row that is farthest from
    those before it, until there are `count`. Distances are of this norm, each objective scaled to its range."""
    points = _matrix(points)
    scaled = points / np.maximum(np.ptp(points, axis=0), 1e-12)
    chosen = list(dict.fromkeys(first))
    distance = np.min([np.linalg.norm(scaled - scaled[row], ord=norm, axis=1) for row in chosen], axis=0)
    while len(chosen) < min(count, len(points)):
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[chosen[-1]], ord=norm, axis=1))
    return chosen


def as_points(records: Sequence[Trial], objectives: Sequence[ObjectiveConfig]) -> NDArray[np.float64]:
    """Points [N, M] of the records, lower is better: a maximized objective is negated.

    NaN where an objective is missing, and for every trial that was not trained to the end: accuracies of different
    trainings do not mix.
    """
    nothing = float("nan")
    rows = [
        [
            (-1 if objective.maximize else 1) * record.objectives.get(objective.name, nothing)
            if record.state == "complete"
            else nothing
            for objective in objectives
        ]
        for record in records
    ]
    return np.array(rows, float).reshape(len(rows), len(objectives))


def front(records: Sequence[T], objectives: Sequence[ObjectiveConfig]) -> list[T]:
    """The complete trials that no other dominates, cheapest first (by the first objective that is minimized)."""
    numbers = np.array([record.number for record in records], np.int64)
    return [records[at] for at in front_positions(as_points(records, objectives), objectives, numbers)]


def front_positions(
    points: NDArray[np.float64], objectives: Sequence[ObjectiveConfig], numbers: NDArray[np.int64]
) -> list[int]:
    """Which of the points [N, M] are on the front, in the order of `front`; `numbers` [N] decide between equal ones."""
    cost = next((column for column, objective in enumerate(objectives) if not objective.maximize), 0)
    members = np.flatnonzero(pareto_mask(points))
    return members[np.lexsort((numbers[members], points[members, cost]))].tolist() if len(members) else []


def _matrix(points: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(points, float)
    if points.ndim != 2:
        raise ValueError(f"points have shape {points.shape}, allowed is [N, M], a row per point")
    return points


def _improvements(points: NDArray[np.float64]) -> list[int]:
    """Which points nothing before them dominates or equals."""
    found: list[int] = []
    if points.shape[1] == 2:
        # the front so far as a staircase: rising in the first objective, falling in the second
        across: list[float] = []
        up: list[float] = []
        for i, (x, y) in enumerate(points.tolist()):
            if x != x or y != y:
                continue
            at = bisect_left(across, x)
            if (at and up[at - 1] <= y) or (at < len(across) and across[at] == x and up[at] <= y):
                continue
            end = at
            while end < len(up) and up[end] >= y:
                end += 1
            across[at:end], up[at:end] = [x], [y]
            found.append(i)
        return found
    best = np.empty((0, points.shape[1]))
    for i in np.flatnonzero((points == points).all(axis=1)).tolist():
        if not (best <= points[i]).all(axis=1).any():
            best = np.concatenate([best[~(points[i] <= best).all(axis=1)], points[i : i + 1]])
            found.append(i)
    return found


def _first_copies(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the rows that differ from the row before."""
    first = np.ones(len(points), bool)
    first[1:] = (points[1:] != points[:-1]).any(axis=1)
    return first


def _mask_of_distinct(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the non-dominated rows; the rows are distinct and in lexicographic order."""
    count, width = points.shape
    first = np.arange(count) == 0
    if width <= 1:
        return first
    if width == 2:
        lowest = np.minimum.accumulate(points[:, 1])
        first[1:] = points[1:, 1] < lowest[:-1]
        return first
    mask = np.zeros(count, bool)
    # separate columns: comparing and filtering rows of three numbers is twenty times slower
    numbers, others = np.arange(count), [points[:, column].copy() for column in range(1, width)]
    while len(numbers):
        # nothing sorts before the first that is left and still dominates it; what follows has no lower first
        # coordinate, so it survives by being lower in another
        mask[numbers[0]] = True
        keep = np.logical_or.reduce([column < column[0] for column in others])
        numbers, others = numbers[keep], [column[keep] for column in others]
    return mask


def _volume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Hypervolume of points that are all below the reference.

    Up to two objectives directly. Else the points are taken in the order of the last objective, and each adds the box
    that it dominates less the part that those before it dominate as well: While, Bradstreet and Barone's WFG
    (https://doi.org/10.1109/TEVC.2010.2077298), where that order takes one objective off every step.
    """
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.lexsort(points.T[::-1])]
    points = points[_first_copies(points)]
    points = points[_mask_of_distinct(points)]
    if points.shape[1] == 2:
        return float(((reference[0] - points[:, 0]) * -np.diff(points[:, 1], prepend=reference[1])).sum())
    points = points[np.argsort(points[:, -1], kind="stable")]
    total = 0.0
    for row, point in enumerate(points):
        inner, limit = point[:-1], reference[:-1]
        shared = _volume(np.maximum(points[:row, :-1], inner), limit)
        total += (reference[-1] - point[-1]) * (float(np.prod(limit - inner)) - shared)
    return total
