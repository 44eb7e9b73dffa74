"""The calls of average_pool2d that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps

OP = "average_pool2d"
SHAPES = (
    Shape(OP, 128, 32, 56, 4, 4),
    Shape(OP, 128, 64, 28, 4, 4),
    Shape(OP, 128, 128, 14, 4, 4),
    Shape(OP, 128, 256, 7, 4, 4),
)
TINY = (Shape(OP, 2, 8, 9, 4, 4),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    x, _ = maps(shape, dtype)
    cells, window = shape.size // shape.kernel, (shape.kernel,) * 2
    coarse = torch.empty(shape.images, cells, cells, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    for pass_name, backward in (("forward", False), ("grad_input", True)):
        yield pass_name, triton.pool_launch(x, coarse, window, backward), shape.kernel
