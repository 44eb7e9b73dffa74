"""`nas bench kernels`: our kernels against other forms.

Every case is checked against float64 before it is timed; a wrong one has no time. The file is written after each case,
so that a killed run still has what it measured. Shapes are those of `nas.kernels.tools.shipped`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from nas.base.files import write_atomically
from nas.base.machine import processor
from nas.bench.networks import networks
from nas.kernels.tools.rows import floor_ms, time_forms, versions
from nas.kernels.tools.shipped import SHAPES, TINY
from nas.kernels.tools.timing import ceilings
from nas.kernels.tools.work import works
from nas.networks.precision import usable_device

SUITES = {"core": SHAPES, "networks": (), "slot": (), "tiny": TINY}


def bench(out: Path, suite: str = "core", device: str = "cuda", seconds: float = 480.0, compiled: bool = True) -> dict:
    """Ceilings, then every case of the suite by every form, then whole networks; writes `out` as it goes.

    What does not fit in `seconds` is listed under `skipped`. Raises MachineError where the device is absent.
    """
    start, target = time.monotonic(), usable_device(device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"environment": hardware(target), "suite": suite, "rows": [], "models": [], "skipped": []}
    found["ceilings"] = ceilings(target)
    for work in works(SUITES[suite], ("bfloat16", "float32"), target):
        if time.monotonic() - start > seconds:
            found["skipped"].append(f"{work.shape.name} {work.pass_name} {work.dtype}")
            continue
        forms = dict(work.forms)
        if compiled and work.pass_name in ("forward", "joined") and work.dtype == "bfloat16":
            forms["torch_compile"] = cast(Callable, torch.compile(work.plain))
        floor = floor_ms(work, found["ceilings"])
        rows = list(time_forms(work, forms, target, floor))
        best = min(
            (r["median_ms"] for r in rows if not r["form"].startswith("triton") and "median_ms" in r), default=None
        )
        for row in rows:
            if best and "median_ms" in row:
                row["times_faster_than_best_pytorch"] = best / row["median_ms"]
        found["rows"] += rows
        _write(out, found)
    for row in networks(target, suite, compiled, lambda: seconds - (time.monotonic() - start)):
        found["models"].append(row)
        _write(out, found)
    found["seconds"] = time.monotonic() - start
    _write(out, found)
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": name, **versions(device)}


def _write(out: Path, found: dict) -> None:
    write_atomically(out, json.dumps(found, indent=1) + "\n")
