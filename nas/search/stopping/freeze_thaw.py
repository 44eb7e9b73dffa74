"""Freeze-thaw: every trial waits at every rung, and the surrogate says which goes on, or that another begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nas.search.stopping import Verdict
from nas.search.stopping.halving import rung_epochs

FIRST_SHARE = 9


class FreezeThaw:
    """What waits, and where. `choose(waiting, may_begin)` is `nas.search.surrogate.SurrogateSampler.thaw`: it has
    numbers and epochs, and answers with a number or None. All that it knows is in the study, so that a search decides
    after a restart as it would have."""

    pauses = True

    def __init__(self, rungs: Sequence[int], choose: Callable[[Mapping[int, int], bool], int | None]):
        self.rungs, self._choose = frozenset(rungs), choose
        self.waiting: dict[int, int] = {}
        self._passed: set[tuple[str, int]] = set()

    def report(self, trial: str, epoch: int, values: Sequence[float]) -> Verdict:
        if epoch not in self.rungs or (trial, epoch) in self._passed:
            return "go on"
        self.waiting[int(trial)] = epoch
        return "pause"

    def enter(self, trial: str, values: Mapping[int, Sequence[float]], waits: bool = False) -> None:
        last = max(values, default=0)
        self._passed |= {(trial, epoch) for epoch in values if not waits or epoch < last}
        self.waiting.pop(int(trial), None)
        if waits and last:
            self.waiting[int(trial)] = last

    def promote(self, may_begin: bool) -> str | None:
        if not self.waiting or (number := self._choose(self.waiting, may_begin)) is None:
            return None
        self._passed.add((str(number), self.waiting.pop(number)))
        return str(number)


def thawing_epochs(epochs: int, grace: int, reduction: int) -> list[int]:
    """The epochs at which trials wait: the first is a ninth of all, or `grace`, as what costs less says too little."""
    return rung_epochs(epochs, max(grace, epochs // FIRST_SHARE), reduction)
