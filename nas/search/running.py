"""Trials that have begun, as the driver knows them, and what it asks of a record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.runs.record import TrialRecord
from nas.search.study import Proposal
from nas.space.genotype import Genotype
from nas.space.training import key_of


@dataclass
class RunningTrial:
    """A trial that a worker has, or that waits to be promoted."""

    proposal: Proposal
    genotype: Genotype
    seed: int
    began: float
    curve: list[dict[str, float]]
    starts: int = 1
    """Processes that it was handed to."""
    deaths: int = 0
    """Of its processes, those of a whole node apart."""
    cause: str = ""
    donor: str | None = None
    """Key of the network that its training inherits from."""
    only_costs: bool = False
    """Not to be trained: what it costs is what is asked for."""

    @property
    def key(self) -> str:
        return key_of(self.genotype, self.proposal.params)

    def kept_in(self, run_dir: Path) -> Path:
        """The folder that its record and its checkpoint lie in."""
        return run_dir

    def recorded(self, state: Any, error: str | None) -> TrialRecord:
        """A record that the driver writes: of a trial that no process finished."""
        return TrialRecord(
            number=self.proposal.number,
            key=self.key,
            state=state,
            genotype=self.genotype.to_dict(),
            params=self.proposal.params,
            seed=self.seed,
            curve=self.curve,
            error=error,
            started=self.began,
            finished=time.time(),
            seconds=time.time() - self.began,
        )


def is_measurement(record: TrialRecord) -> bool:
    """Whether a network was measured and not trained: for its costs alone, or it broke a limit."""
    return record.only_measured or (record.state == "rejected" and (record.error or "").startswith("constraint: "))


def measured_on(record: TrialRecord) -> str | None:
    return record.costs.get("latency", {}).get("device_name") or None
