"""Successive halving: which trainings go on, ranked against those that have come as far, on several objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.runs.pareto import farthest_points, pareto_mask
from nas.search.stopping import Verdict


class SuccessiveHalving:
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934) on non-dominated ranks
    (https://arxiv.org/abs/2106.12639).

    Rungs are at the epochs grace, grace x reduction, grace x reduction^2, ... (`rung_epochs`). A trial is ranked within
    a rung, among all that reached it, with the values that they had there: front by front, within a front by `order`.

    stopping: a trial goes on if it is in the best 1/reduction of the rung when it comes, else it ends.
    promotion: every trial pauses at a rung; `promote` names one that is in the best 1/reduction and has not gone on.
    Where later trials are better than earlier ones, more than that go on in the end.

    With several `brackets` trials, which are named by their numbers then, take turns in starting at a later rung
    (Hyperband, asynchronous).
    """

    def __init__(
        self,
        epochs: int,
        grace: int = 1,
        reduction: int = 2,
        order: Literal["crowding", "epsilon_net"] = "epsilon_net",
        kind: Literal["stopping", "promotion"] = "promotion",
        brackets: int = 1,
    ):
        if grace < 1 or reduction < 2 or brackets < 1:
            raise ValueError(
                f"grace = {grace}, reduction = {reduction}, brackets = {brackets}: allowed are at least 1, 2 and 1"
            )
        self.reduction, self.kind, self._order = reduction, kind, ORDERS[order]
        milestones = rung_epochs(epochs, grace, reduction)
        self.brackets: list[dict[int, dict[str, list[float]]]] = [
            {milestone: {} for milestone in milestones[start:]} for start in range(min(brackets, len(milestones) or 1))
        ]
        self.pauses = kind == "promotion"
        self._promoted: set[tuple[int, int, str]] = set()

    @property
    def rungs(self) -> dict[int, dict[str, list[float]]]:
        """Epoch -> trial -> its values there, of the first bracket."""
        return self.brackets[0]

    def report(self, trial: str, epoch: int, values: Sequence[float]) -> Verdict:
        """Enter what a trial has after an epoch (lower is better); reported again, it counts once."""
        bracket = self._bracket_of(trial)
        rung = self.brackets[bracket].get(epoch)
        if rung is None:
            return "go on"
        rung[trial] = list(values)
        if self.kind == "promotion":
            return "go on" if (bracket, epoch, trial) in self._promoted else "pause"
        return "go on" if trial in self._best(rung, math.ceil(len(rung) / self.reduction)) else "stop"

    def enter(self, trial: str, values: Mapping[int, Sequence[float]], waits: bool = False) -> None:
        """Enter what a trial of an earlier life had after its epochs: it may go on from the last if it waits there."""
        for epoch in values:
            self.report(trial, epoch, values[epoch])
            if not waits or epoch < max(values):
                self._promoted.add((self._bracket_of(trial), epoch, trial))

    def promote(self, may_begin: bool) -> str | None:
        """The paused trial that may go on, from the latest rung that has one, whatever else `may_begin`."""
        if self.kind == "stopping":
            return None
        for bracket, rungs in enumerate(self.brackets):
            for epoch in sorted(rungs, reverse=True):
                for trial in self._best(rungs[epoch], len(rungs[epoch]) // self.reduction):
                    if (bracket, epoch, trial) not in self._promoted:
                        self._promoted.add((bracket, epoch, trial))
                        return trial
        return None

    def _bracket_of(self, trial: str) -> int:
        return int(trial) % len(self.brackets) if len(self.brackets) > 1 else 0

    def _best(self, rung: dict[str, list[float]], count: int) -> list[str]:
        if not rung or not count:
            return []
        trials = list(rung)
        return [trials[row] for row in non_dominated_order(np.array(list(rung.values())), self._order)[:count]]


def rung_epochs(epochs: int, grace: int, reduction: int) -> list[int]:
    """The epochs at which trials are compared: up to the last of which `reduction` times as many are there."""
    found = []
    while grace * reduction <= epochs:
        found.append(grace)
        grace *= reduction
    return found


def non_dominated_order(
    points: NDArray[np.float64], order: Callable[[NDArray[np.float64]], NDArray[np.int64]] | None = None
) -> list[int]:
    """Row numbers of points [N, M] (lower is better) from best to worst: front by front, within one by `order`."""
    left = np.arange(len(points))
    found: list[int] = []
    while len(left):
        front = left[pareto_mask(points[left])]
        found += front[(order or least_crowded)(points[front])].tolist()
        left = np.setdiff1d(left, front)
    return found


def least_crowded(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """By the crowding distance of NSGA-II: the normalised size of the box between neighbours; the ends come first."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = max(float(np.ptp(column)), 1e-12)
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return np.argsort(-distance, kind="stable")


def epsilon_net(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """One after the other the point that is farthest from those before it; the best of the first objective begins."""
    return np.array(farthest_points(points, [int(np.argmin(points[:, 0]))], len(points)))


ORDERS = {"crowding": least_crowded, "epsilon_net": epsilon_net}
