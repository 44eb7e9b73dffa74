"""The calls of conv2d that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps, steps

OP = "conv2d"
SHAPES = (
    Shape(OP, 128, 64, 56, 3),
    Shape(OP, 128, 128, 56, 3, 2),
    Shape(OP, 128, 256, 14, 3),
    Shape(OP, 128, 512, 7, 3),
    Shape(OP, 128, 256, 56, 1),
    Shape(OP, 128, 1024, 14, 1),
)
TINY = (Shape(OP, 2, 8, 6, 3),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .._core.geometry import forward_axis
    from .._triton.product import product_launch

    x, out = maps(shape, dtype)
    c, k = shape.channels, shape.kernel
    weight = torch.empty(1, c, k, k, c, dtype=dtype, device="meta").movedim(-1, 2)
    shift = torch.empty(c, dtype=dtype, device="meta")
    axis = forward_axis(k, shape.stride, k // 2)
    launch = product_launch(x, weight, out, (axis, axis), 1)
    yield "forward", launch, steps(launch)
    for pass_name, residual in (("activated", None), ("joined", out)):
        launch = product_launch(x, weight, out, (axis, axis), 1, shift=shift, residual=residual, activation="relu")
        yield pass_name, launch, steps(launch)
