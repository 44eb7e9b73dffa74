"""Finds the run folders in a folder without reading them."""

from __future__ import annotations

import os
from pathlib import Path

from nas.base.errors import UserError

RUN_MARKS = ("resolved.yaml", "experiment.yaml", "trials")


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((path / name).exists() for name in RUN_MARKS)


def find_runs(path: str | Path) -> dict[str, Path]:
    """Name -> folder of the run at `path`, or of the runs in it, the newest first.

    Raises UserError if there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    if is_run(path):
        return {path.resolve().name: path}
    runs = [folder for folder in path.iterdir() if folder.is_dir() and is_run(folder)]
    runs.sort(key=lambda folder: (-_changed(folder), folder.name))
    return {folder.name: folder for folder in runs}


def has_records(run: Path) -> bool:
    """Whether a run has a record."""
    try:
        with os.scandir(run / "trials") as entries:
            return any(entry.name.endswith(".json") for entry in entries)
    except OSError:
        return False


def stamp(path: Path) -> tuple[int, int] | None:
    """Time of the last change in nanoseconds and size of a file; None where it cannot be had."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _changed(folder: Path) -> int:
    return max((found[0] for name in RUN_MARKS if (found := stamp(folder / name))), default=0)
