"""Involution whose kernels are made in registers, tap by tap, from the features of each pixel: they never reach memory.

The kernels of a tap for a block of pixels are one matrix product of their features with the rows of the weight for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .._core.geometry import forward_axis
from .._core.launch import Launch, float32_precision, interpreted, power_of_two
from .._core.prepared import start
from .._core.tensors import channels_inside
from .._triton import window_host

Config = Mapping[str, int] | None
CHANNELS = 128  # per program
WARP_BYTES = 256  # of a pixel's features that one warp keeps without spilling registers
NARROWEST = 16  # side of the smallest matrix product


@triton.jit
def spanned_window_sum(
    source_ptr,
    features_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    source_image,
    features_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    FEATURES_ROW: tl.constexpr,
    FEATURES_COL: tl.constexpr,
    FEATURES: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    BASE_H: tl.constexpr,
    BASE_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_SPAN: tl.constexpr,
):
    """out = sum over taps of x[pixel of the tap] * (features[pixel] . weight[tap, :, group] + bias[tap, group]).

    weight [Kh, Kw, FEATURES, GROUPS], bias [Kh, Kw, GROUPS]. BLOCK_SPAN >= BLOCK_GROUPS columns are multiplied at once,
    those beyond BLOCK_GROUPS with zeros. WIDE: multiply in the dtype of the sums; the interpreter cannot in bfloat16.
    """
    blocks: tl.constexpr = (OUT_H * OUT_W + BLOCK_PIXELS - 1) // BLOCK_PIXELS
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixels = tl.program_id(0) % blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    rows, cols, real = pixels // OUT_W, pixels % OUT_W, pixels < OUT_H * OUT_W
    width_blocks: tl.constexpr = (WIDTH + BLOCK_WIDTH - 1) // BLOCK_WIDTH
    first_group = tl.program_id(1) // width_blocks * BLOCK_GROUPS
    groups = first_group + tl.arange(0, BLOCK_GROUPS)[None, :, None]
    within = tl.program_id(1) % width_blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, None, :]
    channels = groups * WIDTH + within
    valid = (groups < GROUPS) & (within < WIDTH)
    spanned = tl.arange(0, BLOCK_SPAN)[None, :]
    own = (spanned < BLOCK_GROUPS) & (first_group + spanned < GROUPS)
    part = tl.arange(0, BLOCK_FEATURES)
    features_at = features_ptr + image * features_image + (rows * FEATURES_ROW + cols * FEATURES_COL)[:, None]
    features = tl.load(features_at + part[None, :], mask=real[:, None] & (part[None, :] < FEATURES), other=0.0)
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_GROUPS, BLOCK_WIDTH), ACC)
    for tap in range(TAPS_H * TAPS_W):
        source_rows = rows * STRIDE_H + BASE_H + tap // TAPS_W * DILATION_H
        source_cols = cols * STRIDE_W + BASE_W + tap % TAPS_W * DILATION_W  # pyright: ignore
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        source_at = source_ptr + image * source_image + source_rows * SOURCE_ROW + source_cols * SOURCE_COL
        x = tl.load(source_at[:, None, None] + channels, mask=seen[:, None, None] & valid, other=0.0).to(ACC)
        weight_at = weight_ptr + (tap * FEATURES + part[:, None]) * GROUPS + first_group + spanned
        weight = tl.load(weight_at, mask=(part[:, None] < FEATURES) & own, other=0.0)
        if WIDE:
            kernel = tl.dot(features.to(ACC), weight.to(ACC), input_precision="ieee", out_dtype=ACC)
        else:
            kernel = tl.dot(features, weight, input_precision=PRECISION)
        if bias_ptr is not None:
            kernel += tl.load(bias_ptr + tap * GROUPS + first_group + spanned, mask=own, other=0.0).to(ACC)
        if BLOCK_SPAN > BLOCK_GROUPS:  # what stands beyond the own groups is zero
            kernel = tl.sum(tl.reshape(kernel, (BLOCK_PIXELS, BLOCK_SPAN // BLOCK_GROUPS, BLOCK_GROUPS)), axis=1)
        sums += x * tl.reshape(kernel, (BLOCK_PIXELS, BLOCK_GROUPS, 1))
    out_at = out_ptr + image * out_image + (rows * OUT_ROW + cols * OUT_COL)[:, None, None] + channels
    tl.store(out_at, sums.to(out_ptr.dtype.element_ty), mask=real[:, None, None] & valid)


def forward(x, features, weight, bias, kernel_size, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], features [N,D,H',W'], weight [G*Kh*Kw,D,1,1], bias [G*Kh*Kw] -> [N,C,H',W'] channels_last."""
    x, features = channels_inside(x), channels_inside(features)
    shape = (*x.shape[:2], *features.shape[2:])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        rows = weight[:, :, 0, 0].unflatten(0, (-1, *kernel_size)).permute(1, 2, 3, 0).to(x.dtype).contiguous()
        rows_bias = None
        if bias is not None:
            rows_bias = bias.unflatten(0, (-1, *kernel_size)).permute(1, 2, 0).contiguous()
        start(spanned_launch, x, features, rows, rows_bias, out, stride, padding, dilation, config)
    return out


def spanned_launch(x, features, rows, bias, out, stride, padding, dilation, config: Config = None) -> Launch:
    """The launch that fills `out`; rows [Kh,Kw,D,G] and bias [Kh,Kw,G]."""
    kernel_h, kernel_w, num_features, groups = rows.shape
    row, col = (forward_axis(*each) for each in zip((kernel_h, kernel_w), stride, padding, dilation, strict=True))
    width, pixels = x.shape[1] // groups, out.shape[2] * out.shape[3]
    block = min(64, power_of_two(width))
    together = min(power_of_two(groups), max(1, CHANNELS // block))
    # a single warp has no other to wait for when kernels of pixels are handed to their channels
    least = 1 if num_features * x.element_size() <= WARP_BYTES else 2
    default = {"BLOCK_PIXELS": NARROWEST, "BLOCK_GROUPS": together, "BLOCK_WIDTH": block, "num_warps": least}
    tile, warps = window_host.block_tile(config, default)
    arguments = {
        "source_ptr": x,
        "features_ptr": features,
        "weight_ptr": rows,
        "bias_ptr": bias,
        "out_ptr": out,
        "source_image": x.stride(0),
        "features_image": features.stride(0),
        "out_image": out.stride(0),
    }
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants((row, col)),
        "FEATURES_ROW": features.stride(2),
        "FEATURES_COL": features.stride(3),
        "FEATURES": num_features,
        "GROUPS": groups,
        "WIDTH": width,
        "ACC": window_host.sum_dtype(x.dtype),
        "WIDE": interpreted() or x.dtype == torch.float64,
        "PRECISION": float32_precision(),
        "BLOCK_FEATURES": max(NARROWEST, power_of_two(num_features)),
        "BLOCK_SPAN": max(NARROWEST, tile["BLOCK_GROUPS"]),
        **tile,
    }
    blocks = out.shape[0] * -(-pixels // tile["BLOCK_PIXELS"])
    grid = (blocks, -(-groups // tile["BLOCK_GROUPS"]) * -(-width // tile["BLOCK_WIDTH"]))
    return Launch(spanned_window_sum, grid, arguments, constants, warps)
