"""The passes of gnconv_gate as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, outer, inner, size = getattr(torch, dtype), shape.channels, shape.width, shape.size

    def make() -> tuple:
        y, a = (
            random_map(shape.images, inner, size, kind, device),
            random_map(shape.images, 2 * outer, size, kind, device)[:, outer:],
        )
        weight, bias = torch.randn(outer, inner, 1, 1, device=device), torch.randn(outer, device=device)
        return y, a, (weight / inner**0.5).to(kind), bias.to(kind)

    forms: dict[str, Callable] = {"aten": aten.forward}
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = triton.forward
    pixels = shape.images * size**2
    width = torch.finfo(kind).bits // 8
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: aten.forward(*(x.double() for x in t)),
        width * (pixels * (inner + 2 * outer) + inner * outer), 2 * pixels * inner * outer,
    )  # fmt: skip
