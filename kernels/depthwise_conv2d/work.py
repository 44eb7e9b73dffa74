"""The passes of depthwise_conv2d as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, k, c = getattr(torch, dtype), shape.kernel, shape.channels
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, 1.0)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (random_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        weight = torch.randn(c, 1, k, k, device=device).to(kind)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[pass_name]

    def form(module) -> Callable:
        rest = {"forward": (None, None), "grad_input": ((shape.size,) * 2,), "grad_weight": ((k, k),)}[pass_name]

        def run(a, b, **options):
            return getattr(module, pass_name)(a, b, *rest, *geometry, **options)

        return run

    plain = form(aten)
    forms: dict[str, Callable] = {
        "channels_last": plain,
        "contiguous": lambda a, b: plain(a.contiguous(), b.contiguous()),
    }
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = form(triton)
    width = torch.finfo(kind).bits // 8
    maps = shape.images * c * (shape.size**2 + out**2)
    return Work(
        shape, pass_name, dtype, make, forms, lambda a, b: plain(a.double(), b.double()),
        width * maps + width * c * k * k, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip
