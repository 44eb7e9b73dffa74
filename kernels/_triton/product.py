"""Convolution as a matrix product over pixels, its weight shared by all images or one per image.

Nothing is unfolded: each step reads the pixels that one tap meets. Channels are contiguous in all maps (NHWC), and
weights are read fastest where theirs lie together too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .._core.geometry import Axis, forward_axis
from .._core.launch import Launch, float32_precision, interpreted, power_of_two
from .._core.tensors import channels_inside
from . import window_host

Config = Mapping[str, int] | None


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """One of kernels.conv2d.aten.ACTIVATIONS, or x where that is None; NaN stays NaN."""
    if ACTIVATION == "relu" or ACTIVATION == "relu6":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if ACTIVATION == "relu6":
        x = tl.minimum(x, 6.0, propagate_nan=tl.PropagateNan.ALL)
    if ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == "sigmoid":
        x = 1.0 / (1.0 + tl.exp(-x))
    return x


@triton.jit
def convolution_product(
    source_ptr,
    weight_ptr,
    scale_ptr,
    shift_ptr,
    residual_ptr,
    out_ptr,
    images,
    source_image,
    weight_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    WEIGHT_GROUP: tl.constexpr,
    WEIGHT_INTO: tl.constexpr,
    WEIGHT_FROM: tl.constexpr,
    WEIGHT_TAP_H: tl.constexpr,
    WEIGHT_TAP_W: tl.constexpr,
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
    SHARED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[pixel, into] = sum over taps and `from` of source[pixel of the tap, from] * weight[into, from, tap].

    Then times scale, plus shift, plus the residual, which lies as out does, and the activation. C_IN and C_OUT:
    channels of a group. SHARED: one weight, so that a block may have pixels of several images. WIDE: multiply in the
    dtype of the sums, which the interpreter needs.
    """
    into_blocks: tl.constexpr = (C_OUT + BLOCK_INTO - 1) // BLOCK_INTO
    from_blocks: tl.constexpr = (C_IN + BLOCK_FROM - 1) // BLOCK_FROM
    pixel_blocks: tl.constexpr = (OUT_H * OUT_W + BLOCK_PIXELS - 1) // BLOCK_PIXELS
    into = tl.program_id(0) % into_blocks * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[None, :]
    group = tl.program_id(0) // into_blocks % GROUPS
    block = (tl.program_id(0) // (into_blocks * GROUPS)).to(tl.int64)
    if SHARED:
        pixel_numbers = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
        image, pixels = pixel_numbers // (OUT_H * OUT_W), (pixel_numbers % (OUT_H * OUT_W)).to(tl.int32)
        real = image < images
    else:
        image = block // pixel_blocks
        pixels = (block % pixel_blocks).to(tl.int32) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
        real = pixels < OUT_H * OUT_W
        weight_ptr += image * weight_image
    rows, cols = pixels // OUT_W, pixels % OUT_W
    source_at = source_ptr + image * source_image + group * C_IN
    weight_ptr += group * WEIGHT_GROUP
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_INTO), ACC)
    for step in range(TAPS_H * TAPS_W * from_blocks):
        u, v = step // (from_blocks * TAPS_W), step // from_blocks % TAPS_W
        first = step % from_blocks * BLOCK_FROM  # pyright: ignore
        inner = first + tl.arange(0, BLOCK_FROM)
        source_rows = rows * STRIDE_H + BASE_H + u * DILATION_H
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        at = source_at + source_rows * SOURCE_ROW + source_cols * SOURCE_COL + inner[None, :]
        x = tl.load(at, mask=seen & (inner[None, :] < C_IN), other=0.0)
        at = weight_ptr + u * WEIGHT_TAP_H + v * WEIGHT_TAP_W + inner[:, None] * WEIGHT_FROM + into * WEIGHT_INTO
        weight = tl.load(at, mask=(inner[:, None] < C_IN) & (into < C_OUT), other=0.0)
        if WIDE:
            sums = tl.dot(x.to(ACC), weight.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(x, weight, sums, input_precision=PRECISION)
    channel, valid = group * C_OUT + into, into < C_OUT
    if scale_ptr is not None:
        sums *= tl.load(scale_ptr + channel, mask=valid, other=0.0).to(ACC)
    if shift_ptr is not None:
        sums += tl.load(shift_ptr + channel, mask=valid, other=0.0).to(ACC)
    at = image * out_image + rows * OUT_ROW + cols * OUT_COL + channel
    if residual_ptr is not None:
        sums += tl.load(residual_ptr + at, mask=real & valid, other=0.0).to(ACC)
    sums = activated(sums, ACTIVATION)
    tl.store(out_ptr + at, sums.to(out_ptr.dtype.element_ty), mask=real & valid)


def product_launch(
    x, weight, out, axes: tuple[Axis, Axis], groups: int, backward: bool = False, scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None, residual: torch.Tensor | None = None, activation: str | None = None,
    config: Config = None,
) -> Launch:  # fmt: skip
    """The windows of `axes` on `x` times weight, [N,C',C/g,Kh,Kw] or for all images [1,C',C/g,Kh,Kw], into `out`.

    `backward`: from C' to C. scale and shift [C']; residual of the shape and strides of `out`.
    """
    into, inner = out.shape[1] // groups, x.shape[1] // groups
    shared = weight.shape[0] == 1
    pixels = out.shape[2] * out.shape[3] * (out.shape[0] if shared else 1)
    default = product_tile(x.dtype, BLOCK_PIXELS=pixels, BLOCK_INTO=into, BLOCK_FROM=inner)
    tile, warps = window_host.block_tile(config, default)
    start = weight[:, :, :, axes[0].first_tap :, axes[1].first_tap :]
    per_filter, per_channel = weight.stride(1), weight.stride(2)
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants(axes),
        "WEIGHT_GROUP": weight.shape[1] // groups * per_filter,
        "WEIGHT_INTO": per_channel if backward else per_filter,
        "WEIGHT_FROM": per_filter if backward else per_channel,
        "WEIGHT_TAP_H": weight.stride(3) * axes[0].tap_step,
        "WEIGHT_TAP_W": weight.stride(4) * axes[1].tap_step,
        "SHARED": shared,
        "ACTIVATION": activation,
        **product_constants(groups, inner, into, x.dtype),
        **tile,
    }
    arguments = {
        "source_ptr": x,
        "weight_ptr": start,
        "scale_ptr": scale,
        "shift_ptr": shift,
        "residual_ptr": residual,
        "out_ptr": out,
        "images": out.shape[0],
        "source_image": x.stride(0),
        "weight_image": weight.stride(0),
        "out_image": out.stride(0),
    }
    blocks = -(-pixels // tile["BLOCK_PIXELS"]) * (1 if shared else out.shape[0])
    grid = (blocks * groups * -(-into // tile["BLOCK_INTO"]),)
    return Launch(convolution_product, grid, arguments, constants, warps)


def forward_axes(kernel_size, stride, padding, dilation) -> tuple[Axis, Axis]:
    """The windows of a convolution along both axes."""
    rows, cols = (forward_axis(*geometry) for geometry in zip(kernel_size, stride, padding, dilation, strict=True))
    return rows, cols


def product_tile(dtype: torch.dtype, **sizes: int) -> dict[str, int]:
    """Blocks of a matrix product, rows, columns and what is summed over, none much larger than what there is; warps."""
    most = (128, 128, 64) if dtype in (torch.float16, torch.bfloat16) else (64, 64, 32)
    tile = {
        name: max(16, min(limit, power_of_two(size))) for (name, size), limit in zip(sizes.items(), most, strict=True)
    }
    rows, columns, _ = tile.values()
    return tile | {"num_warps": 8 if rows * columns > 8192 else 4}


def product_constants(groups: int, inner: int, into: int, dtype: torch.dtype) -> dict:
    """What kernels of products are told but for shapes of maps; `inner` and `into` are channels of a group."""
    return {
        "GROUPS": groups,
        "C_IN": inner,
        "C_OUT": into,
        "ACC": window_host.sum_dtype(dtype),
        "WIDE": interpreted() or dtype == torch.float64,
        "PRECISION": float32_precision(),
    }


def rows_of_pixels(t: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] as [N*H*W,C], channels next to each other; copied only where no stride leads from pixel to pixel."""
    rows = channels_inside(t).permute(0, 2, 3, 1).reshape(-1, t.shape[1])
    return rows if rows.stride(1) == 1 or t.shape[1] == 1 else rows.contiguous()
