"""The passes of average_pool2d as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, c, size, window = getattr(torch, dtype), shape.channels, shape.size, (shape.kernel,) * 2
    cells = size // shape.kernel

    def form(module) -> Callable:
        if pass_name == "forward":
            return partial(module.forward, window=window)
        return partial(module.grad_input, size=(size, size), window=window)

    forms: dict[str, Callable] = {"aten": form(aten)}
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = form(triton)
    values = shape.images * c * (size**2 + cells**2)
    return Work(
        shape, pass_name, dtype,
        lambda: (random_map(shape.images, c, size if pass_name == "forward" else cells, kind, device),),
        forms, lambda t: form(aten)(t.double()),
        torch.finfo(kind).bits // 8 * values, shape.images * c * size**2,
    )  # fmt: skip
