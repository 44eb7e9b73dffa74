"""`nas bench kernels` and `nas bench tune`: our kernels against other forms, and the table that the dispatcher reads.

Every case is checked against float64 before it is timed; a wrong one has no time. The file is written after each case,
so that a killed run still has what it measured. Shapes are those of `kernels.shipped`.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch

from nas.base.files import write_atomically
from nas.base.machine import processor
from nas.bench.networks import networks
from nas.bench.settings import float32_products
from nas.bench.timing import ceilings, measure, num_sets, peak_mb
from nas.bench.works import TINY, Work, works
from nas.kernels import dispatch
from nas.kernels.launch import machine_obstacle
from nas.kernels.shipped import SHAPES
from nas.networks.precision import usable_device

LIMITS = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2, "tf32": 2e-3}
PRODUCTS = (
    "conv2d",
    "global_filter",
    "gnconv_gate",
    "gnconv_recursion",
    "odconv2d",
)  # of matrices and hardly anything else
SUITES = {"core": SHAPES, "networks": (), "tiny": TINY}
TILES = {
    "depthwise_conv2d": {"BLOCK_COLS": (4, 8, 16), "BLOCK_WIDTH": (32, 64), "num_warps": (1, 2, 4)},
    "involution": {"BLOCK_COLS": (4, 8, 16), "BLOCK_GROUPS": (2, 4, 8), "num_warps": (1, 2, 4)},
    "spanned_involution": {"BLOCK_PIXELS": (16, 32, 64), "num_warps": (1, 2, 4)},
    "conv2d": {"BLOCK_PIXELS": (64, 128), "BLOCK_INTO": (64, 128), "BLOCK_FROM": (32, 64), "num_warps": (4, 8)},
    "odconv2d": {"BLOCK_PIXELS": (64, 128), "BLOCK_INTO": (64, 128), "BLOCK_FROM": (32, 64), "num_warps": (4, 8)},
    "average_pool2d": {"BLOCK_CELLS": (4, 8, 16), "BLOCK_CHANNELS": (32, 64, 128), "num_warps": (1, 2, 4)},
    "self_calibrated_gate": {"BLOCK_CHANNELS": (32, 64, 128), "num_warps": (1, 2, 4)},
    "gnconv_gate": {"BLOCK_PIXELS": (64, 128), "BLOCK_OUTER": (32, 64, 128), "num_warps": (4, 8)},
    "gnconv_recursion": {"BLOCK_PIXELS": (32, 64, 128), "BLOCK_OUT": (32, 64, 128), "num_warps": (4, 8)},
}


def bench(out: Path, suite: str = "core", device: str = "cuda", seconds: float = 480.0, compiled: bool = True) -> dict:
    """Ceilings, then every case of the suite by every form, then whole networks; writes `out` as it goes.

    What does not fit in `seconds` is listed under `skipped`. Raises MachineError where the device is absent.
    """
    start, place = time.monotonic(), usable_device(device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"environment": environment(place), "suite": suite, "rows": [], "models": [], "skipped": []}
    found["ceilings"] = ceilings(place)
    for work in works(SUITES[suite], ("bfloat16", "float32"), place):
        if time.monotonic() - start > seconds:
            found["skipped"].append(f"{work.shape.name} {work.passing} {work.dtype}")
            continue
        forms = dict(work.forms)
        if compiled and work.passing in ("forward", "joined") and work.dtype == "bfloat16":
            forms["torch_compile"] = cast(Callable, torch.compile(work.plain))
        floor = floor_ms(work, found["ceilings"])
        rows = [row for name, form in forms.items() if (row := time_form(work, name, form, place, floor))]
        best = min(
            (r["median_ms"] for r in rows if not r["form"].startswith("triton") and "median_ms" in r), default=None
        )
        for row in rows:
            if best and "median_ms" in row:
                row["times_faster_than_best_pytorch"] = best / row["median_ms"]
        found["rows"] += rows
        _write(out, found)
    for row in networks(place, suite, compiled, lambda: seconds - (time.monotonic() - start)):
        found["models"].append(row)
        _write(out, found)
    found["seconds"] = time.monotonic() - start
    _write(out, found)
    return found


def tune(out: Path, suite: str = "core", device: str = "cuda", seconds: float = 480.0) -> dict:
    """Times our kernels in several configurations against aten, and writes the table that `auto` reads."""
    start, place = time.monotonic(), usable_device(device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"environment": environment(place), "entries": []}
    for work in works(SUITES[suite], ("bfloat16", "float16", "float32"), place):
        if work.tf32:
            continue  # the table knows dtypes, and float32 is measured as it is written
        if time.monotonic() - start > seconds:
            break
        if "triton" not in work.forms:
            continue
        aten = time_form(work, "aten", work.plain, place, 0.0)
        if "median_ms" not in aten:
            continue
        tried = []
        ours = work.forms["triton"]
        # a pass of several launches is measured as it is
        for config in [None] if work.passing == "training" else [None, *configurations(work.shape.op)]:
            form = partial(ours, config=config) if config else ours
            row = time_form(work, "triton", form, place, 0.0)
            if "median_ms" in row:
                tried.append((row["median_ms"], config or {}))
        if tried:
            best = min(tried, key=lambda pair: pair[0])
            times = {"triton_ms": best[0], "aten_ms": aten["median_ms"], "config": best[1]}
            found["entries"].append({**work.key, **times, "tried": len(tried)})
            _write(out, found)
    return found


def configurations(op: str) -> Iterator[dict[str, int]]:
    """Launch configurations to try, each a part of what a kernel is told."""
    for values in product(*TILES[op].values()):
        yield dict(zip(TILES[op], values, strict=True))


def time_form(work: Work, name: str, form: Callable, device: torch.device, floor: float) -> dict[str, Any]:
    """One row: the error first, then the time; `error` in words where it is wrong or did not run."""
    row: dict[str, Any] = {
        **work.key,
        "form": name,
        "tf32": work.tf32,
        "floor_ms": floor,
        "bytes_min": work.bytes_min,
        "flops": work.flops,
    }
    try:
        with torch.no_grad(), float32_products("tf32" if work.tf32 else "ieee"):
            inputs = work.make()
            row["relative_error"] = _distance(form(*inputs), work.exact(*inputs))
            if not row["relative_error"] <= LIMITS["tf32" if work.tf32 else work.dtype]:
                return {**row, "error": "wrong values: not timed"}
            sets = [inputs] + [work.make() for _ in range(num_sets(work.bytes_min, device) - 1)]
            row["peak_mb"] = peak_mb(lambda: form(*inputs), device)
            row |= asdict(measure([lambda s=s: form(*s) for s in sets], device))
    except (RuntimeError, ValueError) as wrong:  # a form that cannot run here is a row, not the end
        return {**row, "error": str(wrong).splitlines()[0][:300]}
    if floor:
        row["times_floor"] = row["median_ms"] / floor
    return row


def floor_ms(work: Work, top: dict[str, float]) -> float:
    """What the measured ceilings allow: bytes at the copy rate, or the arithmetic, whichever is longer.

    Of involution with its span both count as multiply-adds, though the span, the smaller, is a product of matrices.
    """
    kind = work.dtype if work.dtype != "float16" else "bfloat16"
    kind = "float32" if work.shape.op == "global_filter" else kind  # it computes in float32 always
    matrix = top[f"matmul_{'tf32' if work.tf32 else kind}_tflops"]
    rate = matrix if work.shape.op in PRODUCTS else top.get("fma_tflops", matrix)
    return max(work.bytes_min / top["copy_gbps"] / 1e6, work.flops / rate / 1e9)


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": __import__("triton").__version__ if machine_obstacle() is None else None,
        "python": platform.python_version(),
        "seed": 0,
        "clock": "events around replays of a CUDA graph" if gpu else "process time",
    }


def table_path(device: str) -> Path:
    """Where the dispatcher looks for the table of this device."""
    return dispatch.TABLES / f"{dispatch.gpu_name(torch.device(device))}.json"


def _distance(actual: Any, exact: Any) -> float:
    """Relative error in the Euclidean norm, of several tensors together; NaN where a value is."""
    if isinstance(actual, tuple):
        actual, exact = (torch.cat([t.double().flatten() for t in tensors]) for tensors in (actual, exact))
    return ((actual.double() - exact).norm() / exact.norm()).item()


def _write(out: Path, found: dict) -> None:
    write_atomically(out, json.dumps(found, indent=1) + "\n")
