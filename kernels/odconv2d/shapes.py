"""The calls of odconv2d that users meet, and the launches that run them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from .._core.shapes import maps, steps
from .._core.tensors import accumulator

OP = "odconv2d"
SHAPES = (
    Shape(OP, 128, 64, 56, 3, width=4),
    Shape(OP, 128, 128, 28, 3, width=4),
    Shape(OP, 128, 256, 14, 3, width=4),
    Shape(OP, 128, 512, 7, 3, width=4),
    Shape(OP, 128, 256, 14, 3, 2, width=4),
    Shape(OP, 2, 512, 7, 3, width=4),
    Shape(OP, 128, 128, 56, 3, 2, width=4),
    Shape(OP, 128, 256, 14, 1, width=4),
    Shape(OP, 128, 32, 8, 3, width=4),
)
TINY = (
    Shape(OP, 2, 8, 6, 3, width=2),
    Shape(OP, 2, 8, 20, 3, width=2),
)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .._core.geometry import forward_axis
    from . import triton, triton_mixing, triton_n_fold
    from .aten import cheaper_form

    x, out = maps(shape, dtype)
    n, c, k = shape.images, shape.channels, shape.kernel
    packed = torch.empty(shape.width, c, k * k * c, dtype=dtype, device="meta")
    lengths = (shape.width, c, k * k * c)
    kernel, rows, columns = (torch.empty(n, length, dtype=dtype, device="meta") for length in lengths)
    mixed = torch.empty(n, c, k * k * c, dtype=dtype, device="meta")
    mixing = triton_mixing.mix_launch(packed, kernel, rows, columns, mixed)
    yield "kernels", mixing, mixing.constants["IMAGES"]
    mixing = triton_mixing.mix_grads_launch(mixed, packed, kernel, rows, columns)
    yield "kernels' gradients", mixing, mixing.constants["BLOCK_ROWS"]
    weight = mixed.view(n, c, k, k, c).movedim(-1, 2)
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    axis = forward_axis(k, shape.stride, k // 2)
    launch = triton.product_launch(x, weight, out, (axis, axis), 1)
    yield "forward", launch, steps(launch)
    for launch in triton.grad_input_launches(out, weight, x, *geometry, 1):
        yield "grad_input", launch, steps(launch)
    launch = triton.outer_launch(out, x, weight, (axis, axis), 1)
    yield "grad_weight", launch, -(-out.shape[2] * out.shape[3] // launch.constants["BLOCK_PIXELS"])
    shared = packed.view(shape.width, c, k, k, c).movedim(-1, 2)
    if cheaper_form("cuda", x.shape, shared.shape, *geometry, 1) != "n_fold":
        return
    factors = torch.empty(n, shape.width, k, k, dtype=accumulator(dtype), device="meta")
    launch = triton_n_fold.folded_launch(x, shared, factors, out, (axis, axis))
    yield "n_fold forward", launch, steps(launch)
    for launch in triton_n_fold.grads_launches(out, x, shared, factors, x, *geometry):
        yield "n_fold grads", launch, steps(launch)
    launch = triton_n_fold.outer_launch(out, x, factors, (axis, axis))
    pixels = n * out.shape[2] * out.shape[3]
    each = launch.constants["BLOCK_PIXELS"] * launch.constants["PARTS"]
    yield "n_fold grad_weight", launch, -(-pixels // each)
