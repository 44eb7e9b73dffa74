"""FrontWeights: the weights of a search's own trainings, kept for the networks of its front alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from nas.base.errors import HostError
from nas.runs.folder import proxy_folder
from nas.runs.record import TrialRecord
from nas.search.cluster.store import Store


class FrontWeights:
    """What trials wrote to proxy/<key>/ in the run, or sent to its store: as much as the front has networks.

    A trial writes before its record, so what has no record yet is left alone: its trial is under way.
    """

    def __init__(self, run_dir: Path, store: Store | None = None, say: Callable[[str], None] = lambda text: None):
        self._run_dir, self._store, self._say = run_dir, store, say

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
            self._store.drop(f"proxy/{record.key}")
        except HostError as problem:  # the search can do without
            self._say(f"the weights of {record.key} are not kept: {problem}")

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            shutil.rmtree(proxy_folder(self._run_dir, key), ignore_errors=True)
