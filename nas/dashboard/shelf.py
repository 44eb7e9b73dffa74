"""Shelf: the runs of a folder by name, listed anew at each request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from nas.runs.listing import find_runs, is_run

if TYPE_CHECKING:
    from nas.dashboard.view import RunView
    from nas.runs.findings.volume import Standing


class Shelf:
    """The run at a path, or the runs in it. Raises UserError if there is no such folder."""

    def __init__(self, path: Path):
        self.path = path
        self.single = is_run(path)
        self._views: dict[str, RunView] = {}
        self._lock = threading.Lock()
        self._compared: tuple[dict[str, Standing | None], dict[str, dict[str, Any] | None]] = {}, {}
        self._folders = self._find()

    def names(self) -> list[str]:
        return list(self._find())

    def folder(self, name: str) -> Path:
        found = self._folders.get(name) or self._find().get(name)
        if found is None:
            raise HTTPException(404, "no such run")
        return found

    def view(self, name: str) -> RunView:
        """What reads the run; the first call imports what that needs, which takes longer than to answer with a page."""
        return self._view(name, self.folder(name))

    def views(self) -> Iterator[RunView]:
        """Of all runs, the newest first."""
        return (self._view(name, folder) for name, folder in self._find().items())

    def summaries(self) -> dict[str, Any]:
        """What the page of all runs shows; reads each run for a while, so that one with many trials holds none up."""
        views = list(self.views())
        lines = [view.overview() for view in views]
        shares = self._shares({view.run.name: view.standing() for view in views})
        retrained = [row for view in views for row in view.retrained()] + self._retrained_alone(views)
        return {
            "folder": str(self.path),
            "runs": [line | {"hypervolume": shares[line["run"]]} for line in lines],
            "retrained": retrained,
        }

    def _retrained_alone(self, views: list[RunView]) -> list[dict[str, Any]]:
        """The long trainings of networks that no run here found."""
        from nas.runs.reader import RunReader
        from nas.runs.retrainings import listed, read_retrainings, retrained_folders

        names = {view.run.name for view in views}
        alone = [folder for name, folder in retrained_folders(self.path).items() if name not in names]
        return [row for folder in alone for row in listed(RunReader(folder), read_retrainings(folder))]

    def _shares(self, standings: dict[str, Standing | None]) -> dict[str, dict[str, Any] | None]:
        """`common_shares`, computed again where a standing is another one."""
        from nas.runs.findings.volume import common_shares

        before, shares = self._compared
        if before.keys() != standings.keys() or any(
            before[name] is not compared for name, compared in standings.items()
        ):
            shares = common_shares(standings)
            self._compared = standings, shares
        return shares

    def _view(self, name: str, folder: Path) -> RunView:
        from nas.dashboard.view import RunView

        with self._lock:
            if name not in self._views:
                self._views[name] = RunView(folder)
            return self._views[name]

    def _find(self) -> dict[str, Path]:
        """Name -> folder of the runs that are there now; what was read of others is dropped."""
        found = find_runs(self.path)
        with self._lock:
            self._views = {name: view for name, view in self._views.items() if name in found}
        self._folders = found
        return found
