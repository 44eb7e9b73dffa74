"""Convolution with a kernel per sample, and its gradients, as matrix products over the pixels of one image.

Kernels of samples are read fastest where they lie as [N,C',Kh,Kw,C/g], channels next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl

from .._core.geometry import Axis, gradient_axes, out_size
from .._core.launch import Launch
from .._core.prepared import start
from .._core.tensors import channels_inside, new_map
from .._triton import window_host
from .._triton.product import forward_axes, product_constants, product_launch, product_tile

Config = Mapping[str, int] | None


@triton.jit
def sampled_outer(
    source_ptr,
    grad_ptr,
    out_ptr,
    source_image,
    grad_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    GRAD_H: tl.constexpr,
    GRAD_W: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_COL: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    BASE_H: tl.constexpr,
    BASE_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[image, into, tap, from] = sum over the pixels of grad[pixel, into] * source[pixel of the tap, from].

    A program has one tap, and all pixels of one image in order.
    """
    into_blocks: tl.constexpr = (C_OUT + BLOCK_INTO - 1) // BLOCK_INTO
    from_blocks: tl.constexpr = (C_IN + BLOCK_FROM - 1) // BLOCK_FROM
    inner = tl.program_id(0) % from_blocks * BLOCK_FROM + tl.arange(0, BLOCK_FROM)[None, :]
    block = tl.program_id(0) // from_blocks
    into = block % into_blocks * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[:, None]
    group = block // into_blocks % GROUPS
    image = (block // (into_blocks * GROUPS)).to(tl.int64)
    u, v = tl.program_id(1) // TAPS_W, tl.program_id(1) % TAPS_W
    source_ptr += image * source_image + group * C_IN
    grad_ptr += image * grad_image + group * C_OUT
    sums = tl.zeros((BLOCK_INTO, BLOCK_FROM), ACC)
    for first in range(0, GRAD_H * GRAD_W, BLOCK_PIXELS):
        pixels = first + tl.arange(0, BLOCK_PIXELS)
        real = pixels < GRAD_H * GRAD_W
        rows, cols = pixels // GRAD_W, pixels % GRAD_W
        at = grad_ptr + rows[None, :] * GRAD_ROW + cols[None, :] * GRAD_COL + into
        grad = tl.load(at, mask=real[None, :] & (into < C_OUT), other=0.0)
        source_rows = rows * STRIDE_H + BASE_H + u * DILATION_H
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        at = source_ptr + source_rows[:, None] * SOURCE_ROW + source_cols[:, None] * SOURCE_COL + inner
        x = tl.load(at, mask=seen[:, None] & (inner < C_IN), other=0.0)
        if WIDE:
            sums = tl.dot(grad.to(ACC), x.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(grad, x, sums, input_precision=PRECISION)
    filter = image * (GROUPS * C_OUT) + group * C_OUT + into
    at = out_ptr + (filter * (TAPS_H * TAPS_W) + tl.program_id(1)) * C_IN + inner
    tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=(into < C_OUT) & (inner < C_IN))


def forward(x, weight, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [N,C',C/g,Kh,Kw] -> [N,C',H',W'] channels_last."""
    x = channels_inside(x)
    axes = forward_axes(weight.shape[3:], stride, padding, dilation)
    size = out_size(x.shape, weight.shape, stride, padding, dilation)
    out = new_map(x, weight.shape[1], size)
    if out.numel():
        start(product_launch, x, weight, out, axes, groups, False, None, None, None, None, config)
    return out


def grad_input(grad, weight, size, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """grad [N,C',H',W'], weight [N,C',C/g,Kh,Kw] -> gradient of x [N,C,*size], channels_last."""
    grad = channels_inside(grad)
    out = new_map(grad, weight.shape[2] * groups, size)
    start(grad_input_launches, grad, weight, out, stride, padding, dilation, groups, config)
    return out


def grad_input_launches(
    grad, weight, out, stride, padding, dilation, groups, config: Config = None
) -> Iterator[Launch]:
    """A launch per phase of the stride that has pixels."""
    rows, cols = (
        gradient_axes(*geometry) for geometry in zip(weight.shape[3:], stride, padding, dilation, strict=True)
    )
    for row in rows:
        for col in cols:
            phase = out[:, :, row.start :: row.jump, col.start :: col.jump]
            if phase.numel():
                yield product_launch(grad, weight, phase, (row, col), groups, backward=True, config=config)


def grad_weight(grad, x, kernel_size, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """grad [N,C',H',W'], x [N,C,H,W] -> gradient of the weight [N,C',C/g,*kernel_size], its channels together."""
    grad, x = channels_inside(grad), channels_inside(x)
    shape = (x.shape[0], grad.shape[1], *kernel_size, x.shape[1] // groups)
    out = torch.empty(shape, dtype=x.dtype, device=x.device).movedim(-1, 2)
    if out.numel():
        start(outer_launch, grad, x, out, forward_axes(kernel_size, stride, padding, dilation), groups, config)
    return out


def outer_launch(grad, x, out, axes: tuple[Axis, Axis], groups: int, config: Config = None) -> Launch:
    """The launch that fills `out` [N,C',C/g,Kh,Kw], whose channels lie together."""
    into, inner = grad.shape[1] // groups, x.shape[1] // groups
    # the sums run over pixels here
    default = product_tile(x.dtype, BLOCK_FROM=inner, BLOCK_INTO=into, BLOCK_PIXELS=grad.shape[2] * grad.shape[3])
    tile, warps = window_host.block_tile(config, default)
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("GRAD", grad),
        **window_host.axis_constants(axes),
        **product_constants(groups, inner, into, x.dtype),
        **tile,
    }
    arguments = {
        "source_ptr": x,
        "grad_ptr": grad,
        "out_ptr": out,
        "source_image": x.stride(0),
        "grad_image": grad.stride(0),
    }
    blocks = -(-into // tile["BLOCK_INTO"]) * -(-inner // tile["BLOCK_FROM"])
    grid = (x.shape[0] * groups * blocks, axes[0].taps * axes[1].taps)
    return Launch(sampled_outer, grid, arguments, constants, warps)
