"""FrontWeights: the weights of a search's own trainings, kept for the networks of its front alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from nas.base.errors import HostError
from nas.runs.folder import proxy_folder
from nas.runs.record import TrialRecord
from nas.search.cluster.store import Store


class FrontWeights:
    """What trials wrote to proxy/<key>/ in the run, or sent to its store: as much as the front has networks.

    A trial writes before its record, so what has no record yet is left alone: its trial is under way.
    """

    def __init__(
        self,
        run_dir: Path,
        store: Store | None = None,
        say: Callable[[str], None] = lambda text: None,
        in_use: Callable[[], set[str]] | None = None,
    ):
        """`in_use`: where trials start with these weights, the keys of those that trials under way need."""
        self._run_dir, self._store, self._say, self._in_use = run_dir, store, say, in_use
        self._leaving: set[str] = set()
        """Not on the front any more, and perhaps still in use."""

    def has(self, key: str) -> bool:
        return proxy_folder(self._run_dir, key).is_dir()

    def begin(self, records: Iterable[TrialRecord], front: Iterable[TrialRecord]) -> None:
        """Remove what an earlier driver did not come to."""
        folder = proxy_folder(self._run_dir, "")
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        trained = {record.key for record in records if record.state != "rejected"}
        self._drop(there & trained - {record.key for record in front})

    def finished(self, record: TrialRecord, before: Iterable[TrialRecord], front: Iterable[TrialRecord]) -> None:
        """A trial has its record, with which the front became another than `before`."""
        if record.state == "rejected":  # perhaps as known, and the one that is known may be under way
            return
        kept = {member.key for member in front}
        self._drop(({member.key for member in before} | {record.key}) - kept)
        if self._store is None or record.state != "complete":
            return
        try:
            if record.key in kept:
                self._store.fetch(f"proxy/{record.key}", proxy_folder(self._run_dir, record.key))
            if self._in_use is None:
                self._store.drop(f"proxy/{record.key}")
        except HostError as problem:  # the search can do without
            self._say(f"the weights of {record.key} are not kept: {problem}")

    def _drop(self, keys: Iterable[str]) -> None:
        self._leaving |= set(keys)
        gone = self._leaving - (self._in_use() if self._in_use is not None else set())
        self._leaving -= gone
        for key in gone:
            shutil.rmtree(proxy_folder(self._run_dir, key), ignore_errors=True)
            if self._store is not None and self._in_use is not None:
                with suppress(HostError):  # the store goes with the run
                    self._store.drop(f"proxy/{key}")
