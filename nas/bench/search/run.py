"""`nas bench search`: hypervolume against trainings and against epochs, of every sampler with and without stopping."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.base.machine import describe_machine
from nas.bench.search.simulation import TOLD, BenchSpace, simulate

SAMPLERS = ("random", "nsga2", "tpe", "gp", "surrogate", f"surrogate{TOLD}")
SCHEDULERS = ("none", "mo_asha", "freeze_thaw")
IDENTITY = ("space", "sampler", "scheduler", "seed", "workers", "trainings")


def bench(
    out: Path,
    spaces: Iterable[BenchSpace],
    samplers: Sequence[str],
    schedulers: Sequence[str],
    seeds: Sequence[int],
    num_trainings: int,
    seconds: float = float("inf"),
    num_epochs: float = float("inf"),
    num_workers: int = 1,
) -> dict[str, Any]:
    """Run what `out` (JSON) has not yet, for about `seconds`; returns what it then has.

    A run is one space, sampler, scheduler and seed; those of another number of trainings, or of workers, are others.
    freeze_thaw is run with `surrogate` alone. A search that has trained `num_epochs` ends.
    """
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    result = read_result(out) if out.exists() else {"circumstances": circumstances(), "runs": []}
    done = {identity(run) for run in result["runs"]}
    end = time.monotonic() + seconds
    tasks = [
        (space, sampler, scheduler, seed)
        for seed in seeds
        for space in spaces
        for scheduler in schedulers
        for sampler in samplers
        if scheduler != "freeze_thaw" or sampler.removesuffix(TOLD) == "surrogate"
    ]
    for space, sampler, scheduler, seed in tasks:
        names = {"space": space.name, "sampler": sampler, "scheduler": scheduler, "seed": seed}
        run = names | {"trainings": num_trainings, "workers": num_workers}
        if identity(run) in done or time.monotonic() > end:
            continue
        course = simulate(space, sampler, scheduler, seed, num_trainings, num_epochs, num_workers)
        result["runs"].append(
            run
            | {
                "hypervolume": [round(share, 4) for share in course.hypervolumes],
                "epochs": course.epochs,
                "reached": [[count, round(share, 4)] for count, share in course.reached],
                "repeats": course.repeats,
                "suggest_cpu_s": [round(float(np.percentile(course.suggest_seconds, q)), 4) for q in (50, 95)],
            }
        )
        write_atomically(out, json.dumps(result, separators=(",", ":")) + "\n")
    return result


def read_result(path: Path) -> dict[str, Any]:
    """What an earlier call wrote. Raises UserError for any other file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        for run in result["runs"]:
            run.setdefault("workers", 1)
        whole = all(run.keys() >= {*IDENTITY, "hypervolume", "epochs", "suggest_cpu_s"} for run in result["runs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: not a file of `nas bench search`; name another one, or remove it")
    return result


def circumstances() -> dict[str, Any]:
    """What the figures of a file were made with."""
    machine = describe_machine(("optuna", "numpy", "scipy", "torch"))
    return {"command": "nas bench search", "cores": os.cpu_count()} | machine


def identity(run: dict[str, Any]) -> tuple:
    """What tells a simulated search from others: space, sampler, scheduler, seed, numbers of workers and trainings."""
    return tuple(run[name] for name in IDENTITY)
