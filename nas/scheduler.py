"""Early stopping across trials, for Ray Tune: successive halving on the rows that trials report."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.config import ExperimentConfig, ObjectiveConfig
from nas.halving import SuccessiveHalving

HYPERBAND_BRACKETS = 3


class Halving(FIFOScheduler):
    """Successive halving, stopping type. Accuracies of different epochs never meet; costs, which trials know before
    they train, enter as they are."""

    def __init__(self, objectives: list[ObjectiveConfig], halving: SuccessiveHalving):
        super().__init__()
        self.objectives, self.halving = objectives, halving

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.CONTINUE if self._enter(trial, result) else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._enter(trial, result)  # the last report of a trial comes here alone; others are compared with it

    def _enter(self, trial: Any, result: dict[str, Any]) -> bool:
        """Enter the reported epochs in their rungs; whether the trial keeps up in all of them."""
        verdicts = [
            self.halving.report(
                trial.trial_id,
                int(row["epoch"]),
                [-row[o.name] if o.maximize else row[o.name] for o in self.objectives],
            )
            for row in result.get("rows", [])
        ]
        return "stop" not in verdicts


def make_scheduler(config: ExperimentConfig) -> TrialScheduler:
    """The scheduler that `search.scheduler` names."""
    search = config.search
    if search.scheduler == "none":
        return FIFOScheduler()
    brackets = HYPERBAND_BRACKETS if search.scheduler == "hyperband" else 1
    halving = SuccessiveHalving(
        config.proxy.epochs, search.grace_epochs, search.reduction, search.rank, brackets=brackets
    )
    return Halving(config.objectives, halving)
