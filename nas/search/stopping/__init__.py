"""Who stops: what decides, after some of its epochs, whether a training goes on. Knows nothing of Ray and Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Verdict = Literal["go on", "stop", "pause"]


class Stopping(Protocol):
    """Trials are named by their numbers; values are lower where they are better."""

    pauses: bool
    """Whether a trial that does not go on waits, and may be promoted."""

    def report(self, trial: str, epoch: int, values: Sequence[float]) -> Verdict:
        """Enter what a trial has after an epoch; reported again, it counts once."""
        ...

    def enter(self, trial: str, values: Mapping[int, Sequence[float]], waits: bool = False) -> None:
        """Enter what a trial of an earlier life had after its epochs: it may go on from the last if it waits there."""
        ...

    def promote(self, may_begin: bool) -> str | None:
        """A paused trial that is to go on now, rather than that another begins; from then on it counts as going on.
        With `may_begin` false, none can begin."""
        ...
