"""ReplicatingSearcher: a search that, once it has its trainings, trains the networks in question again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.base.seeds import keyed_seed
from nas.runs.metrics import METRICS
from nas.runs.noise.replicates import left_to_repeat, replicate_dir
from nas.runs.record import TrialRecord, finished_record, scan_records, write_record
from nas.search.running import RunningTrial
from nas.search.searcher import StudySearcher
from nas.search.study import Proposal
from nas.space.genotype import Genotype


@dataclass(kw_only=True)
class RunningReplicate(RunningTrial):
    """A replicate that a worker has; its proposal has its number among the replicates of its trial."""

    of: TrialRecord

    def kept_in(self, run_dir: Path) -> Path:
        return replicate_dir(run_dir, self.of.number)

    def recorded(self, state: Any, error: str | None) -> TrialRecord:
        return replace(super().recorded(state, error), replicate_of=self.of.number)


class ReplicatingSearcher(StudySearcher):
    """A `StudySearcher` that, when that has no more trials, hands out what `replicates.left_to_repeat` has.

    Their number and seed follow from the trial, so that one whose driver was killed goes on from its checkpoint.
    """

    def __init__(self, *arguments: Any, only_replicates: bool = False):
        """`only_replicates` begins with them, whatever trials are left."""
        super().__init__(*arguments)
        self.only_replicates = only_replicates
        self.pending: list[RunningReplicate] | None = None
        """Replicates to be handed out; None before their time."""
        self.num_repeated = self.num_asked = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.pending is None:
            proposed = self.FINISHED if self.only_replicates else super().suggest(trial_id)
            if proposed != self.FINISHED or self.impossible or self.hopeless:
                return proposed
            self.pending = self._planned()
        if len(self.running_trials) >= self.places:
            return None
        if self.again:
            running = self.again.pop(0)
            running.starts += 1
        elif self.pending:
            running = replace(self.pending.pop(0), began=time.time())
        else:
            return None if self.running_trials else self.FINISHED
        assert isinstance(running, RunningReplicate)
        self.running_trials[trial_id] = running
        return self._task(running, []) | {"costs": running.of.costs, "replicate_of": running.of.number}

    def num_held_back(self) -> int:
        if self.pending is None:
            return super().num_held_back()
        return len(self.pending) if len(self.running_trials) >= self.places else 0

    def _planned(self) -> list[RunningReplicate]:
        """What is to be trained again, after what it will take was said."""
        left = left_to_repeat(self.run_dir, self.config, scan_records(self.run_dir)[0])
        self.num_asked = len(left)
        if left:
            minutes = sum(record.seconds for record, _ in left) / min(self.places, len(left)) / 60
            networks = len({record.key for record, _ in left})
            self.progress.say(
                f"replicates: {_count(len(left), 'training')} of {_count(networks, 'network')}, about {minutes:.1f} min"
            )
        return [self._replicate(record, number) for record, number in left]

    def _replicate(self, record: TrialRecord, number: int) -> RunningReplicate:
        proposal, genotype = Proposal(number, record.params), Genotype.from_dict(record.genotype)
        seed = keyed_seed(self.config.search.seed, "replicate", record.number, number)
        return RunningReplicate(proposal, genotype, seed, 0.0, [], of=record)

    def _finish(self, record: TrialRecord) -> None:
        """Of a replicate nobody is told, beyond its record."""
        if record.replicate_of is None:
            super()._finish(record)
            return
        folder = replicate_dir(self.run_dir, record.replicate_of)
        if finished_record(folder, record.number, record.key) is None:
            write_record(folder, record)
        self.num_repeated += 1
        figure = self.config.trained
        metric = METRICS[figure]
        value = metric.text(record.objectives.get(figure))
        what = f"{figure} {value} %" if record.state == "complete" else f"{record.state}: {record.error}"
        first = next(other for other in self.complete if other.number == record.replicate_of)
        self.progress.say(
            f"{self.num_repeated}/{self.num_asked}  trial {record.replicate_of} again, {record.key}  {what}, "
            f"{metric.text(first.objectives[figure])} % before"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
