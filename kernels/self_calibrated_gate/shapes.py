"""The calls of self_calibrated_gate that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps

OP = "self_calibrated_gate"
SHAPES = (
    Shape(OP, 128, 32, 56, width=4),
    Shape(OP, 128, 64, 28, width=4),
    Shape(OP, 128, 128, 14, width=4),
    Shape(OP, 128, 256, 7, width=4),
)
TINY = (Shape(OP, 2, 8, 6, width=4),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    x, out = maps(shape, dtype)
    cells = shape.size // shape.width
    k2 = torch.empty(shape.images, cells, cells, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    for pass_name, backward in (("forward", ()), ("grad_input", (x, x, k2))):
        launch = triton.gate_launch(x, x, k2, out, None, *backward)
        yield pass_name, launch, launch.constants["WINDOW_H"]
