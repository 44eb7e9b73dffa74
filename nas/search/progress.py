"""Progress of a search: a bar on a terminal, one plain line per finished trial otherwise; and the user's loggers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from nas.config.evaluators import TRAINED
from nas.config.sections import ObjectiveConfig
from nas.runs.pareto import front
from nas.runs.record import TrialRecord
from nas.training.loggers import Loggers, Row


class Progress:
    """Counts trainings (rejected candidates apart), the front so far, the time left. Writes to stderr."""

    def __init__(
        self,
        objectives: list[ObjectiveConfig],
        num_trials: int,
        records: Iterable[TrialRecord] = (),
        loggers: Loggers | None = None,
    ):
        self.objectives, self.loggers = objectives, loggers
        self.num_trained = self.num_rejected = self.num_measured = 0
        records = list(records)
        for record in records:
            self._count(record)
        self.front = front(records, objectives)
        self.num_trials = num_trials
        self.num_waiting = 0
        """Trials that trained, and may yet be promoted."""
        self.began = time.monotonic()
        self.before = self.num_trained
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=num_trials, initial=self.before, unit="trial", file=sys.stderr) if on_terminal else None

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def finished(self, record: TrialRecord) -> None:
        self._count(record)
        if record.state == "rejected":
            if self.bar is not None:
                self.bar.set_postfix_str(self._words(), refresh=False)
            return
        done = self.num_trained
        if record.state == "complete":
            self.front = front([*self.front, record], self.objectives)
        if self.loggers is not None:
            self.loggers.log(self._figures(record), done)
        values = " ".join(f"{name} {value:.4g}" for name, value in record.objectives.items())
        what = values if record.state == "complete" else f"{record.state}: {record.error}"
        if record.state == "stopped":
            what = f"stopped after epoch {len(record.curve)}"
        star = " on the front" if any(member is record for member in self.front) else ""
        if self.bar is not None:
            self.bar.set_postfix_str(self._words(), refresh=False)
            self.bar.update(done - self.bar.n)
            if record.state == "failed":
                self.say(f"trial {record.number} {what}")
        else:
            left = self._seconds_left(done + self.num_waiting)
            self.say(f"{done}/{self.num_trials}  trial {record.number} {record.key}  {what}{star}{left}")

    def waits(self, record: TrialRecord, num_waiting: int) -> None:
        """Say that a trial waits to be promoted."""
        self.num_waiting = num_waiting
        if self.bar is None:
            last = record.curve[-1] if record.curve else {"epoch": 0, "top1": 0.0}
            figure = next(name for name in TRAINED if name in last)
            self.say(
                f"{self.num_trained}/{self.num_trials}  trial {record.number} {record.key}  waits after epoch "
                f"{last['epoch']:.0f} with {figure} {last[figure]:.4g}, {num_waiting} in all"
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.loggers is not None:
            self.loggers.close()

    def _figures(self, record: TrialRecord) -> Row:
        """What loggers are told of a finished training: its number, seconds and epochs; its objectives, if it is
        complete, and the best of each so far; how many are on the front, and how many candidates were rejected."""
        objectives = record.objectives if record.state == "complete" else {}
        best = {
            f"best/{objective.name}": (max if objective.maximize else min)(values)
            for objective in self.objectives
            if (values := [member.objectives[objective.name] for member in self.front])
        }
        return {
            "trial": record.number,
            "seconds": record.seconds,
            "epochs": len(record.curve),
            **objectives,
            **best,
            "front": len(self.front),
            "rejected": self.num_rejected,
        }

    def _count(self, record: TrialRecord) -> None:
        rejected = record.state == "rejected"
        self.num_measured += record.only_measured
        self.num_rejected += rejected and not record.only_measured
        self.num_trained += not rejected

    def _words(self) -> str:
        measured = f"only measured {self.num_measured}, " if self.num_measured else ""
        return f"front {len(self.front)}, {measured}rejected {self.num_rejected}"

    def _seconds_left(self, done: int) -> str:
        here = done - self.before
        if here < 1 or done >= self.num_trials:
            return ""
        seconds = (time.monotonic() - self.began) / here * (self.num_trials - done)
        return f"  about {tqdm.format_interval(seconds)} left"
