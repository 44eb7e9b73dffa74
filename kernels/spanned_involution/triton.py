# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# Triton describes neither static_range nor what a constexpr becomes
"""Involution whose kernels are made in registers, tap by tap, from the features of each pixel: they never reach memory.

As in kernels.window a source row is loaded once for all output rows that it reaches. The kernel of a tap for a row of
pixels is one small matrix product of their features with the rows of the weight for that tap.
"""

# Tuples grow by +, the form that Triton compiles.
# ruff: noqa: RUF005

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from kernels import window_host
from kernels.geometry import forward_axis
from kernels.launch import Launch, channels_inside, float32_precision, interpreted, power_of_two

Config = Mapping[str, int] | None
BLOCK = 64  # channels per program
NARROW = 16  # features up to which two rows fit into the registers (sm_90)
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
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_SPAN: tl.constexpr,
):
    """out = sum over taps of x[pixel of the tap] * (features[pixel] . weight[tap, :, group] + bias[tap, group]).

    weight [Kw, Kh, FEATURES, GROUPS], bias [Kw, Kh, GROUPS]. BLOCK_SPAN >= BLOCK_GROUPS columns are multiplied at once,
    those beyond BLOCK_GROUPS with zeros. WIDE: multiply in the dtype of the sums; the interpreter cannot in bfloat16.
    """
    col_tiles: tl.constexpr = (OUT_W + BLOCK_COLS - 1) // BLOCK_COLS
    tiles: tl.constexpr = (OUT_H + ROWS - 1) // ROWS * col_tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    row = tile // col_tiles * ROWS
    pixels = tile % col_tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    cols = pixels[:, None, None]
    width_blocks: tl.constexpr = (WIDTH + BLOCK_WIDTH - 1) // BLOCK_WIDTH
    first_group = tl.program_id(1) // width_blocks * BLOCK_GROUPS
    groups = first_group + tl.arange(0, BLOCK_GROUPS)[None, :, None]
    within = tl.program_id(1) % width_blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, None, :]
    channels = groups * WIDTH + within
    real = (groups < GROUPS) & (within < WIDTH)
    spanned = tl.arange(0, BLOCK_SPAN)[None, :]
    own = (spanned < BLOCK_GROUPS) & (first_group + spanned < GROUPS)
    part = tl.arange(0, BLOCK_FEATURES)
    source_ptr += image * source_image
    features_ptr += image * features_image
    out_ptr += image * out_image

    seen_features = ()
    for r in tl.static_range(ROWS):
        there = tl.where(row + r < OUT_H, (pixels[:, None] < OUT_W) & (part[None, :] < FEATURES), False)
        features_at = features_ptr + (row + r) * FEATURES_ROW + pixels[:, None] * FEATURES_COL + part[None, :]
        f = tl.load(features_at, mask=there, other=0.0)
        if WIDE:
            f = f.to(ACC)
        seen_features = seen_features + (f,)
    zero = tl.zeros((BLOCK_COLS, BLOCK_GROUPS, BLOCK_WIDTH), ACC)
    sums = (zero,)
    for _ in tl.static_range(ROWS - 1):
        sums = sums + (zero,)
    for v in range(TAPS_W):
        source_cols = cols * STEP_W + BASE_W + v * REACH_W
        inside = real & (source_cols >= 0) & (source_cols < SOURCE_W)
        for u in tl.static_range((ROWS - 1) * STEP_H + (TAPS_H - 1) * REACH_H + 1):
            source_row = row * STEP_H + BASE_H + u
            seen = tl.where((source_row >= 0) & (source_row < SOURCE_H), inside, False)
            source_at = source_ptr + source_row * SOURCE_ROW + source_cols * SOURCE_COL + channels
            x = tl.load(source_at, mask=seen, other=0.0).to(ACC)
            new = ()
            for r in tl.static_range(ROWS):
                if (u >= r * STEP_H) & ((u - r * STEP_H) % REACH_H == 0) & (u <= r * STEP_H + (TAPS_H - 1) * REACH_H):
                    tap = v * TAPS_H + (u - r * STEP_H) // REACH_H
                    weight_at = weight_ptr + (tap * FEATURES + part[:, None]) * GROUPS + first_group + spanned
                    w = tl.load(weight_at, mask=(part[:, None] < FEATURES) & own, other=0.0)
                    if WIDE:
                        k = tl.dot(seen_features[r], w.to(ACC), input_precision="ieee", out_dtype=ACC)
                    else:
                        k = tl.dot(seen_features[r], w, input_precision=PRECISION)
                    if bias_ptr is not None:
                        k += tl.load(bias_ptr + tap * GROUPS + first_group + spanned, mask=own, other=0.0).to(ACC)
                    if BLOCK_SPAN > BLOCK_GROUPS:  # what stands beyond the own groups is zero
                        k = tl.sum(tl.reshape(k, (BLOCK_COLS, BLOCK_SPAN // BLOCK_GROUPS, BLOCK_GROUPS)), axis=1)
                    new = new + (sums[r] + x * tl.reshape(k, (BLOCK_COLS, BLOCK_GROUPS, 1)),)
                else:
                    new = new + (sums[r],)
            sums = new
    for r in tl.static_range(ROWS):
        kept = tl.where(row + r < OUT_H, real & (cols < OUT_W), False)
        at = out_ptr + (row + r) * OUT_ROW + cols * OUT_COL + channels
        tl.store(at, sums[r].to(out_ptr.dtype.element_ty), mask=kept)


def forward(x, features, weight, bias, kernel_size, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], features [N,D,H',W'], weight [G*Kh*Kw,D,1,1], bias [G*Kh*Kw] -> [N,C,H',W'] channels_last."""
    x, features = channels_inside(x), channels_inside(features)
    shape = (*x.shape[:2], *features.shape[2:])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        rows = weight[:, :, 0, 0].unflatten(0, (-1, *kernel_size)).permute(2, 1, 3, 0).to(x.dtype).contiguous()
        rows_bias = None
        if bias is not None:
            rows_bias = bias.unflatten(0, (-1, *kernel_size)).permute(2, 1, 0).contiguous()
        spanned_launch(x, features, rows, rows_bias, out, stride, padding, dilation, config)()
    return out


def spanned_launch(x, features, rows, bias, out, stride, padding, dilation, config: Config = None) -> Launch:
    """The launch that fills `out`; rows [Kw,Kh,D,G] and bias [Kw,Kh,G]."""
    kernel_w, kernel_h, num_features, groups = rows.shape
    row, col = (forward_axis(*each) for each in zip((kernel_h, kernel_w), stride, padding, dilation, strict=True))
    width, size = x.shape[1] // groups, out.shape[2:]
    block = min(BLOCK, power_of_two(width))
    together = max(1, min(NARROWEST, power_of_two(groups), BLOCK // block))
    rows_at_once = 2 if num_features <= NARROW and size[0] > 1 else 1
    default = {"ROWS": rows_at_once, "BLOCK_COLS": NARROWEST, "BLOCK_GROUPS": together, "BLOCK_WIDTH": block}
    tile, warps = window_host.block_tile(config, {**default, "num_warps": 2})
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
    tiles = out.shape[0] * -(-size[0] // tile["ROWS"]) * -(-size[1] // tile["BLOCK_COLS"])
    grid = (tiles, -(-groups // tile["BLOCK_GROUPS"]) * -(-width // tile["BLOCK_WIDTH"]))
    return Launch(spanned_window_sum, grid, arguments, constants, warps)
