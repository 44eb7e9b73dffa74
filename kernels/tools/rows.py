"""One measured form of one piece of work as a row: its error against float64 first, then its time."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from .._core.launch import unavailable_reason
from ..operations import OPERATIONS
from .settings import float32_products
from .timing import Times, num_sets, peak_mb, time_calls
from .work import Work

Clock = Callable[[Sequence[Callable[[], object]], torch.device], Times]
LIMITS = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2, "tf32": 2e-3}


def time_forms(
    work: Work, forms: Mapping[str, Callable], device: torch.device, floor: float, clock: Clock | None = time_calls
) -> Iterator[dict[str, Any]]:
    """A row per form as it is measured: its error against float64, which is computed once, then its time; without a
    clock no time.

    Whatever a form raises is the row's `error`, and the next form is tried: Triton's errors have no common kind, and a
    launch that a GPU refuses, or memory that is full, says nothing of the other forms.
    """
    head = {**work.key, "tf32": work.tf32, "floor_ms": floor, "bytes_min": work.bytes_min, "flops": work.flops}
    rows = [{**head, "form": name} for name in forms]
    with torch.no_grad(), float32_products("tf32" if work.tf32 else "ieee"):
        try:
            inputs = work.make()
            exact = work.exact(*inputs)
        except Exception as wrong:
            yield from ({**row, "error": in_words(wrong)} for row in rows)
            return
        for row, form in zip(rows, forms.values(), strict=True):
            try:
                row |= _measured(work, form, inputs, exact, device, clock)
            except Exception as wrong:
                row["error"] = in_words(wrong)
            if floor and "median_ms" in row:
                row["times_floor"] = row["median_ms"] / floor
            yield row


def in_words(wrong: Exception) -> str:
    """An exception in one line: its kind, and the first line of its text if it has any."""
    return ": ".join([type(wrong).__name__, *str(wrong).strip().splitlines()[:1]])[:300]


def _measured(work: Work, form: Callable, inputs: tuple, exact: Any, device: torch.device, clock: Clock | None) -> dict:
    row: dict[str, Any] = {"relative_error": distance(form(*inputs), exact)}
    if not row["relative_error"] <= LIMITS["tf32" if work.tf32 else work.dtype]:
        return row | {"error": "wrong values: not timed"}
    if clock is None:
        return row
    sets = [inputs] + [work.make() for _ in range(num_sets(work.bytes_min, device) - 1)]
    row["peak_mb"] = peak_mb(lambda: form(*inputs), device)
    return row | asdict(clock([lambda s=s: form(*s) for s in sets], device))


def floor_ms(work: Work, top: dict[str, float]) -> float:
    """What the measured ceilings allow: bytes at the copy rate, or the arithmetic, whichever is longer.

    Of involution with its span both count as multiply-adds, though the span, the smaller, is a product of matrices.
    """
    kind = work.dtype if work.dtype != "float16" else "bfloat16"
    kind = "float32" if work.shape.op == "global_filter" else kind  # it computes in float32 always
    matrix = top[f"matmul_{'tf32' if work.tf32 else kind}_tflops"]
    rate = matrix if OPERATIONS[work.shape.op].products else top.get("fma_tflops", matrix)
    return max(work.bytes_min / top["copy_gbps"] / 1e6, work.flops / rate / 1e9)


def versions(device: torch.device) -> dict[str, Any]:
    """What the times depend on besides the hardware, and how they are taken."""
    gpu = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": __import__("triton").__version__ if unavailable_reason() is None else None,
        "python": platform.python_version(),
        "seed": 0,
        "clock": "events around replays of a CUDA graph" if gpu else "process time",
    }


def distance(actual: Any, exact: Any) -> float:
    """Relative error in the Euclidean norm, of several tensors together; NaN where a value is."""
    if isinstance(actual, tuple):
        actual, exact = (torch.cat([t.double().flatten() for t in tensors]) for tensors in (actual, exact))
    return ((actual.double() - exact).norm() / exact.norm()).item()
