"""Early stopping across trials, for Ray Tune: by the rows that trials report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.search.stopping import Stopping
from nas.search.stopping.choosing import ranked_values

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


class Stopped(Fifo):
    """What stops trials, on the epochs that those of `nas.search.cluster.worker` report.

    Accuracies of different epochs never meet; costs, which trials know before they train, enter as they are.

    For Ray a trial that is to wait ends, as one that is stopped: it has saved itself, and once it is promoted the
    searcher (`nas.search.searcher`) proposes it again, under its number: nothing that waits holds a place or an actor.
    """

    def __init__(
        self,
        objectives: list[ObjectiveConfig],
        stopping: Stopping,
        died: Callable[[str, str], bool] | None = None,
    ):
        super().__init__(died)
        self.objectives, self.stopping = objectives, stopping

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.CONTINUE if self._enter(trial, result) else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._enter(trial, result)  # the last report of a trial comes here alone; others are compared with it

    def _enter(self, trial: Any, result: dict[str, Any]) -> bool:
        """Enter the reported epochs in their rungs; whether the trial keeps up in all of them."""
        name = str(trial.config["number"])
        verdicts = [
            self.stopping.report(name, int(row["epoch"]), ranked_values(row, self.objectives))
            for row in result.get("rows", [])
        ]
        return all(verdict == "go on" for verdict in verdicts)


def make_scheduler(
    config: ExperimentConfig, stopping: Stopping | None, died: Callable[[str, str], bool]
) -> TrialScheduler:
    """What Ray Tune asks whether a trial goes on."""
    return Fifo(died) if stopping is None else Stopped(config.objectives, stopping, died)


def last_error(text: str) -> str:
    """The last failure in the error file that Tune keeps of a trial, in a line: what was raised, or how it died."""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    told = [line for line in lines if line.startswith(LOW_MEMORY)] or lines or ["no reason is known"]
    line = told[-1].partition("Worker exit detail: ")[2] or told[-1]
    line = line.partition(" There are some potential root causes.")[0]
    node = f"{NODE_DIED}: " if any(NODE_DIED in other for other in lines) else ""
    return f"{node}{line}"[:300]
