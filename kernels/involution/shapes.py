"""The calls of involution that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps

OP = "involution"
SHAPES = (
    Shape(OP, 128, 64, 56, 7),
    Shape(OP, 128, 128, 28, 7),
    Shape(OP, 128, 256, 14, 7),
    Shape(OP, 128, 512, 7, 7),
    Shape(OP, 128, 128, 56, 7, 2),
    Shape(OP, 128, 32, 112, 3),
    Shape(OP, 128, 32, 8, 3),
)
TINY = (Shape(OP, 2, 16, 6, 3),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    x, out = maps(shape, dtype)
    size, groups = out.shape[2:], shape.channels // shape.width
    dims = (shape.images, *size, shape.kernel, shape.kernel, groups)
    weight = torch.empty(dims, dtype=dtype, device="meta").permute(0, 5, 4, 3, 1, 2)
    geometry = ((shape.stride,) * 2, (shape.kernel // 2,) * 2, (1, 1))
    yield "forward", triton.forward_launch(x, weight, out, *geometry), shape.kernel
    for launch in triton.grad_input_launches(out, weight, x, *geometry):
        yield "grad_input", launch, launch.constants["TAPS_W"]
    yield "grad_weight", triton.grad_weight_launch(out, x, weight, *geometry), shape.kernel
