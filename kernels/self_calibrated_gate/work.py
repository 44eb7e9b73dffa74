"""The passes of self_calibrated_gate as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, c, size = getattr(torch, dtype), shape.channels, shape.size
    cells = size // shape.width

    def make() -> tuple:
        grad, x, k3, k2 = (random_map(shape.images, c, s, kind, device) for s in (size, size, size, cells))
        return (x, k3, k2) if pass_name == "forward" else (grad, x, k3, k2)

    def form(module) -> Callable:
        return module.forward if pass_name == "forward" else module.grads

    forms: dict[str, Callable] = {"aten": form(aten)}
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = form(triton)
    maps, sums = (3, 1) if pass_name == "forward" else (5, 2)
    values = shape.images * c * (maps * size**2 + sums * cells**2)
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: form(aten)(*(x.double() for x in t)),
        torch.finfo(kind).bits // 8 * values, maps * shape.images * c * size**2,
    )  # fmt: skip
