"""The calls of global_filter that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps

OP = "global_filter"
SHAPES = (
    Shape(OP, 128, 240, 14, 14),
    Shape(OP, 128, 496, 7, 7),
)
TINY = (Shape(OP, 6, 4, 6, 6),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    x, out = maps(shape, dtype)
    weight = torch.empty(shape.channels, shape.size, shape.size // 2 + 1, 2, device="meta")
    table = torch.empty(triton.table_size(shape.size, shape.size), device="meta")
    yield "forward", triton.filter_launch(x, weight, table, out), 1
    launch = triton.grad_weight_launch(out, x, table)
    yield "grad_weight", launch, -(-shape.images // launch.constants["PARTS"])
