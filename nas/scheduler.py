"""Early stopping across trials for several objectives: successive halving that ranks only within a rung."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.config import ObjectiveConfig
from nas.pareto import pareto_mask

GRACE_EPOCHS = 1
REDUCTION = 3


class MultiObjectiveASHA(FIFOScheduler):
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934) on non-dominated ranks
    (https://arxiv.org/abs/2106.12639), stopping type.

    At the epochs 1, 3, 9, ... a trial is compared with all trials that reached the same epoch, and goes on if it is in
    the best third. Trials are ordered by non-dominated front, within a front from the least crowded. Accuracies of
    different epochs never meet; the known objectives of a trial enter as they are.
    """

    def __init__(self, objectives: list[ObjectiveConfig], epochs: int):
        super().__init__()
        self.objectives = objectives
        self.rungs: dict[int, dict[str, list[float]]] = {}
        milestone = GRACE_EPOCHS
        while milestone < epochs:
            self.rungs[milestone] = {}
            milestone *= REDUCTION

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.CONTINUE if self._enter(trial, result) else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._enter(trial, result)  # the last report of a trial comes here alone; others are compared with it

    def _enter(self, trial: Any, result: dict[str, Any]) -> bool:
        """Enter the reported epochs in their rungs; whether the trial keeps up in all of them."""
        rows = [row for row in result.get("rows", []) if row["epoch"] in self.rungs]
        return all([self._keeps_up(self.rungs[int(row["epoch"])], trial.trial_id, row) for row in rows])

    def _keeps_up(self, rung: dict[str, list[float]], trial_id: str, row: dict[str, float]) -> bool:
        """Enter a trial in a rung; whether it is in the best share of those that are there."""
        rung[trial_id] = [-row[o.name] if o.maximize else row[o.name] for o in self.objectives]
        place = list(rung).index(trial_id)
        order = non_dominated_order(np.array(list(rung.values())))
        return place in order[: math.ceil(len(rung) / REDUCTION)]


def non_dominated_order(points: np.ndarray) -> list[int]:
    """Row numbers of points [N, M] (lower is better) from best to worst: front by front, least crowded first."""
    left = np.arange(len(points))
    order: list[int] = []
    while len(left):
        front = left[pareto_mask(points[left])]
        distance = _crowding(points[front])
        order += front[np.argsort(-distance, kind="stable")].tolist()
        left = np.setdiff1d(left, front)
    return order


def _crowding(points: np.ndarray) -> np.ndarray:
    """Crowding distance of NSGA-II: the normalised size of the box between the neighbours; the ends are infinite."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        spread = max(float(np.ptp(column)), 1e-12)
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


SCHEDULERS = {
    "none": lambda objectives, epochs: FIFOScheduler(),
    "mo_asha": MultiObjectiveASHA,
}
