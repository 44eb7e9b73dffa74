"""Early stopping across trials, for Ray Tune: successive halving on the rows that trials report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.runs.record import TrialRecord
from nas.search.halving import SuccessiveHalving

HYPERBAND_BRACKETS = 3


NODE_DIED = "its node has died"
NODE_AWAY = "The actor is temporarily unavailable"
LOW_MEMORY = "Task was killed due to the node running low on memory"
"""Ray's words."""


class Fifo(FIFOScheduler):
    """Every trial to its end, and a worker for each place.

    Tune gives a worker that is free to the trial chosen here, and kills the one that is starting for it; with none
    chosen, the free worker has the next trial that has no worker yet.
    """

    def __init__(self, died: Callable[[str, str], bool] | None = None):
        """`died(trial, why)` hears of every process that died with a trial, and says whether to give the trial up."""
        super().__init__()
        self.died = died
        self.given_up: set[str] = set()

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        return None

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if self.died is not None and self.died(
            trial.trial_id, last_error(Path(trial.error_file).read_text(encoding="utf-8"))
        ):
            self.given_up.add(trial.trial_id)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if trial.trial_id in self.given_up:  # Tune queues it to be started again
            tune_controller.stop_trial(trial)


class Halving(Fifo):
    """Successive halving on the epochs that trials of `nas.search.cluster.worker` report.

    Accuracies of different epochs never meet; costs, which trials know before they train, enter as they are.

    For Ray a trial that is to wait ends, as one that is stopped: it has saved itself, and once it is promoted the
    searcher (`nas.search.searcher`) proposes it again, under its number: nothing that waits holds a place or an actor.
    """

    def __init__(
        self,
        objectives: list[ObjectiveConfig],
        halving: SuccessiveHalving,
        died: Callable[[str, str], bool] | None = None,
    ):
        super().__init__(died)
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


def make_scheduler(
    config: ExperimentConfig, halving: SuccessiveHalving | None, died: Callable[[str, str], bool]
) -> TrialScheduler:
    """What Ray Tune asks whether a trial goes on."""
    return Fifo(died) if halving is None else Halving(config.objectives, halving, died)


def last_error(text: str) -> str:
    """The last failure in the error file that Tune keeps of a trial, in a line: what was raised, or how it died."""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    told = [line for line in lines if line.startswith(LOW_MEMORY)] or lines or ["no reason is known"]
    line = told[-1].partition("Worker exit detail: ")[2] or told[-1]
    line = line.partition(" There are some potential root causes.")[0]
    node = f"{NODE_DIED}: " if any(NODE_DIED in other for other in lines) else ""
    return f"{node}{line}"[:300]
