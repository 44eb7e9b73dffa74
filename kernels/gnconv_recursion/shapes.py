"""The calls of gnconv_recursion that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape

OP = "gnconv_recursion"
SHAPES = (
    Shape(OP, 128, 64, 56, width=1),
    Shape(OP, 128, 128, 28, width=2),
    Shape(OP, 128, 32, 8, width=2),
)
TINY = (Shape(OP, 2, 16, 6, width=2),)


def recursion_widths(shape: Shape) -> list[int]:
    """Channels before the first step and after each: halves of the next."""
    return [shape.channels >> (shape.width - i) for i in range(shape.width + 1)]


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from . import triton

    pixels, widths = shape.images * shape.size**2, recursion_widths(shape)
    all_steps = torch.empty(pixels, sum(widths), dtype=dtype, device="meta")
    y = torch.empty(pixels, widths[0], dtype=dtype, device="meta")
    out = torch.empty(pixels, shape.channels, dtype=dtype, device="meta")
    sizes = zip((*widths[1:], shape.channels), widths, strict=True)
    weights = [torch.empty(size, dtype=dtype, device="meta") for size in sizes]
    biases = [weight[:, 0].contiguous() for weight in weights]
    steps = [t for pair in zip(weights[:-1], biases[:-1], strict=True) for t in pair]
    launch = triton.recursion_launch(y, all_steps[:, widths[0] :], out, weights[-1], biases[-1], None, *steps)
    yield "forward", launch, -(-shape.channels // launch.constants["BLOCK_OUT"])
