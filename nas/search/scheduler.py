"""Early stopping across trials, for Ray Tune: successive halving on the rows that trials report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.runs.record import TrialRecord
from nas.search.halving import SuccessiveHalving

HYPERBAND_BRACKETS = 3


class Fifo(FIFOScheduler):
    """Every trial to its end, and a worker for each place.

    Tune gives a worker that is free to the trial chosen here, and kills the one that is starting for it; with none
    chosen, the free worker has the next trial that has no worker yet.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        return None


class Halving(Fifo):
    """Successive halving on the epochs that trials of `nas.search.worker` report.

    Accuracies of different epochs never meet; costs, which trials know before they train, enter as they are.

    For Ray a trial that is to wait ends, as one that is stopped: it has saved itself, and once it is promoted the
    searcher (`nas.search.driver`) proposes it again, under its number. So nothing that waits holds a place or an actor.
    """

    def __init__(self, objectives: list[ObjectiveConfig], halving: SuccessiveHalving):
        super().__init__()
        self.objectives, self.halving = objectives, halving

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.CONTINUE if self._enter(trial, result) else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._enter(trial, result)  # the last report of a trial comes here alone; others are compared with it

    def _enter(self, trial: Any, result: dict[str, Any]) -> bool:
        """Enter the reported epochs in their rungs; whether the trial keeps up in all of them."""
        name = str(trial.config["number"])
        verdicts = [
            self.halving.report(name, int(row["epoch"]), ranked_values(row, self.objectives))
            for row in result.get("rows", [])
        ]
        return all(verdict == "go on" for verdict in verdicts)


def ranked_values(row: Mapping[str, Any], objectives: Sequence[ObjectiveConfig]) -> list[float]:
    """The objectives as a row has them, lower is better."""
    return [-row[o.name] if o.maximize else row[o.name] for o in objectives]


def ranked_curve(record: TrialRecord, objectives: Sequence[ObjectiveConfig]) -> dict[int, list[float]]:
    """The same after every epoch."""
    return {int(row["epoch"]): ranked_values(record.costs | row, objectives) for row in record.curve}


def make_halving(config: ExperimentConfig, records: Iterable[TrialRecord]) -> SuccessiveHalving | None:
    """The ranks that `search.scheduler` keeps, with the trials that have ended; None where it stops nothing."""
    search = config.search
    if search.scheduler == "none":
        return None
    brackets = HYPERBAND_BRACKETS if search.scheduler == "hyperband" else 1
    halving = SuccessiveHalving(
        config.proxy.epochs, search.grace_epochs, search.reduction, search.rank, search.halving, brackets
    )
    for record in records:
        halving.enter(str(record.number), ranked_curve(record, config.objectives))
    return halving


def make_scheduler(config: ExperimentConfig, halving: SuccessiveHalving | None) -> TrialScheduler:
    """What Ray Tune asks whether a trial goes on."""
    return Fifo() if halving is None else Halving(config.objectives, halving)
