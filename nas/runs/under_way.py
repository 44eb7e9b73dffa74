"""Unfinished trials of a run: what each is asked to do, and when its attempts began.

It lies in `checkpoints/<number>/`. A number meets another network where the study is made anew (another storage, a lost
study.db, a copied run), so whatever is kept there says the key of the network that it belongs to.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.base.files import write_atomically
from nas.space.genotype import Genotype
from nas.space.training import key_of


@dataclass(frozen=True)
class UnderWay:
    """A trial that has begun: its network and the parameters that it was decoded from (none of one from outside)."""

    number: int
    genotype: Genotype
    params: dict[str, Any]

    @property
    def key(self) -> str:
        return key_of(self.genotype, self.params)


def folder_of(run_dir: Path, number: int) -> Path:
    return run_dir / "checkpoints" / str(number)


def note_attempt(run_dir: Path, trial: UnderWay) -> list[float]:
    """Note that a trial begins, or goes on, in this process; returns the Unix times at which its attempts began."""
    folder, key = folder_of(run_dir, trial.number), trial.key
    begun = _read(folder)
    if begun is None or begun.key != key:
        task = {"key": key, "params": trial.params, "genotype": trial.genotype.to_dict()}
        write_atomically(folder / "trial.json", json.dumps(task))
    torn = _lines(folder) and not _lines(folder)[-1].endswith("\n")
    with (folder / "attempts").open("a", encoding="utf-8") as file:
        file.write("\n" * bool(torn) + f"{time.time():.3f} {key} {socket.gethostname()} {os.getpid()}\n")
    return attempts(run_dir, trial.number, key)


def attempts(run_dir: Path, number: int, key: str) -> list[float]:
    """The Unix times at which the attempts of a trial began, those of its network alone."""
    found = [line.split() for line in _lines(folder_of(run_dir, number))]
    return [float(words[0]) for words in found if len(words) == 4 and words[1] == key]


def trials_under_way(run_dir: Path) -> dict[int, UnderWay]:
    """Number -> trial that has begun, by what the trials noted themselves; what cannot be read is left out."""
    folders = [path for path in (run_dir / "checkpoints").glob("[0-9]*") if path.name.isdecimal()]
    found = [_read(folder) for folder in sorted(folders)]
    return {trial.number: trial for trial in found if trial is not None}


def _lines(folder: Path) -> list[str]:
    path = folder / "attempts"
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.exists() else []


def _read(folder: Path) -> UnderWay | None:
    try:
        task = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
        trial = UnderWay(int(folder.name), Genotype.from_dict(task["genotype"]), dict(task["params"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return trial if trial.key == task["key"] else None
