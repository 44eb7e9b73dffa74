"""Shelf: the runs of a folder by name, found again whenever somebody asks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from nas.run_listing import find_runs, is_run

if TYPE_CHECKING:
    from nas.dashboard.view import RunView


class Shelf:
    """The run at a path, or the runs in it. Raises UserError if there is no such folder."""

    def __init__(self, path: Path):
        self.path = path
        self.single = is_run(path)
        self._folders: dict[str, Path] = {}
        self._views: dict[str, RunView] = {}
        self._lock = threading.Lock()
        self.names()

    def names(self) -> list[str]:
        self._folders = find_runs(self.path)
        return list(self._folders)

    def folder(self, name: str) -> Path:
        if name not in self._folders:
            self.names()
        if name not in self._folders:
            raise HTTPException(404, "no such run")
        return self._folders[name]

    def view(self, name: str) -> RunView:
        """What reads the run; the first call imports what that needs, which takes longer than to answer with a page."""
        from nas.dashboard.view import RunView

        folder = self.folder(name)
        with self._lock:
            if name not in self._views:
                self._views[name] = RunView(folder)
            return self._views[name]

    def summaries(self) -> dict[str, Any]:
        """What the page of all runs shows; reads each run for a while, so that one with many trials holds none up."""
        return {"folder": str(self.path), "runs": [self.view(name).overview() for name in self.names()]}
