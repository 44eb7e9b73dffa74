"""The calls of gnconv_gate that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape

OP = "gnconv_gate"
SHAPES = (
    Shape(OP, 128, 64, 56, width=32),
    Shape(OP, 128, 128, 28, width=64),
    Shape(OP, 128, 256, 14, width=128),
    Shape(OP, 128, 512, 7, width=256),
    Shape(OP, 128, 32, 8, width=16),
)
TINY = (Shape(OP, 2, 16, 6, width=8),)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    pixels = shape.images * shape.size**2
    y = torch.empty(pixels, shape.width, dtype=dtype, device="meta")
    # a slice of the channels of all steps
    a = torch.empty(pixels, 2 * shape.channels, dtype=dtype, device="meta")[:, shape.channels :]
    weight = torch.empty(shape.channels, shape.width, dtype=dtype, device="meta")
    bias = torch.empty(shape.channels, dtype=dtype, device="meta")
    launch = triton.gate_launch(y, a, weight, bias, torch.empty_like(a, memory_format=torch.contiguous_format))
    yield "forward", launch, -(-shape.width // launch.constants["BLOCK_INNER"])
