"""The calls of spanned_involution that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps

OP = "spanned_involution"
SHAPES = (
    Shape(OP, 128, 64, 56, 7),
    Shape(OP, 128, 128, 28, 7),
    Shape(OP, 128, 256, 14, 7),
    Shape(OP, 128, 512, 7, 7),
    Shape(OP, 128, 32, 8, 3),
)
TINY = (Shape(OP, 2, 16, 6, 3),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    x, out = maps(shape, dtype)
    k, groups, width = shape.kernel, shape.channels // shape.width, max(1, shape.channels // 4)
    features = torch.empty(shape.images, *out.shape[2:], width, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    rows = torch.empty(k, k, width, groups, dtype=dtype, device="meta")
    bias = torch.empty(k, k, groups, dtype=torch.float32, device="meta")
    stride, padding = (shape.stride,) * 2, (k // 2,) * 2
    yield "forward", triton.spanned_launch(x, features, rows, bias, out, stride, padding, (1, 1)), k * k
