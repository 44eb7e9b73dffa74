"""The calls of depthwise_conv2d that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps
from .._core.tensors import accumulator

OP = "depthwise_conv2d"
SHAPES = (
    Shape(OP, 128, 96, 56, 7),
    Shape(OP, 128, 224, 28, 7),
    Shape(OP, 128, 480, 14, 7),
    Shape(OP, 128, 992, 7, 7),
    Shape(OP, 128, 96, 56, 3),
    Shape(OP, 128, 144, 56, 3, 2),
    Shape(OP, 128, 384, 14, 5),
    Shape(OP, 128, 48, 8, 7),
)
TINY = (Shape(OP, 2, 8, 6, 3),)
TILE = {"SECOND": 1}  # more instructions than those that a launch takes by itself, on about half as many registers


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .._core.geometry import forward_axis
    from . import triton

    x, out = maps(shape, dtype)
    stride, padding = (shape.stride,) * 2, (shape.kernel // 2,) * 2
    packed = torch.empty(shape.kernel, shape.kernel, shape.channels, dtype=accumulator(dtype), device="meta")
    axis = forward_axis(shape.kernel, shape.stride, shape.kernel // 2)
    bias = torch.empty(shape.channels, dtype=dtype, device="meta")
    yield "forward", triton.window_launch(x, packed, bias, None, out, (axis, axis), 1 / 3), shape.kernel
    gate = out[:, : shape.channels // 3]
    yield "gated forward", triton.window_launch(x, packed, bias, gate, out, (axis, axis), 1 / 3), shape.kernel
    for launch in triton.grad_input_launches(out, packed, x, stride, padding, 1 / 3):
        yield "grad_input", launch, launch.constants["TAPS_W"]
    launch = triton.grad_weight_launch(out, x, (axis, axis))
    num_tiles = launch.arguments["num_tiles"]
    assert isinstance(num_tiles, int)
    yield "grad_weight", launch, -(-num_tiles // launch.constants["PARTS"])
