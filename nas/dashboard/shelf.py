"""Shelf: the runs of a folder by name, found again whenever somebody asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from nas.dashboard.view import RunView
from nas.run_files import find_runs, is_run


class Shelf:
    """The run at a path, or the runs in it. Raises UserError if there is no such folder."""

    def __init__(self, path: Path):
        self.path = path
        self.single = is_run(path)
        self.views: dict[str, RunView] = {}
        self.names()

    def names(self) -> list[str]:
        found = find_runs(self.path)
        self.views = {name: self.views.get(name) or RunView(folder) for name, folder in found.items()}
        return list(found)

    def view(self, name: str) -> RunView:
        if name not in self.views:
            self.names()
        if name not in self.views:
            raise HTTPException(404, "no such run")
        return self.views[name]

    def summaries(self) -> dict[str, Any]:
        """What the page of all runs shows; reads each run for a while, so that one with many trials holds none up."""
        return {"folder": str(self.path), "runs": [self.views[name].overview() for name in self.names()]}
