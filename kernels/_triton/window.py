# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false
# Triton describes neither static_range nor what a constexpr becomes
"""Triton kernels that sum over the pixels of a window, for depthwise convolution and involution, both directions.

One program makes ROWS x BLOCK_COLS pixels of some channels of one image. A source row is loaded and converted once for
all output rows that it reaches: what limits these kernels is the number of instructions, not memory. Sizes, strides and
taps are constants, so that addresses and conditions fold; only the number of images is free. Where a program has all
rows of a map, those of its window that lie outside are left out. The channels of a tile
are BLOCK_GROUPS groups of BLOCK_WIDTH channels that share weights. Channels are contiguous in all maps (NHWC).

Along each axis an output at o reads the sources at o * STRIDE + BASE + t * DILATION, t in [0, TAPS): a convolution
directly, and its gradient through `kernels._core.geometry`.
"""

# Tuples grow by +, the form that Triton compiles.
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

PER_CHANNEL = tl.constexpr(0)  # weights are the same at every pixel
AT_OUTPUT = tl.constexpr(1)  # each output pixel has its weights
AT_SOURCE = tl.constexpr(2)  # each source pixel has its weights


@triton.constexpr_function
def first_inside(whole, base):
    """The first row of a window that lies on the map, where programs have `whole` columns of it; 0 elsewhere."""
    return max(0, -base) if whole else 0


@triton.constexpr_function
def end_inside(whole, base, size, end):
    """The row behind the last one that lies on the map of `size` rows, likewise; `end` elsewhere."""
    return max(0, min(end, size - base)) if whole else end


@triton.jit
def first_row(number, SIZE: tl.constexpr, ROWS: tl.constexpr):
    """The first row of a tile; a constant where there is one tile alone."""
    if SIZE <= ROWS:
        return 0
    else:
        return number * ROWS


@triton.jit
def window_sum(
    source_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    out_ptr,
    source_image,
    weight_image,
    gate_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    GATE_ROW: tl.constexpr,
    GATE_COL: tl.constexpr,
    WEIGHT_ROW: tl.constexpr,
    WEIGHT_COL: tl.constexpr,
    WEIGHT_TAP_H: tl.constexpr,
    WEIGHT_TAP_W: tl.constexpr,
    WEIGHT_GROUP: tl.constexpr,
    WEIGHTS: tl.constexpr,
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
    GATED: tl.constexpr,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """out = SCALE * (window sum + bias), the first GATED channels times the gate."""
    col_tiles: tl.constexpr = (OUT_W + BLOCK_COLS - 1) // BLOCK_COLS
    tiles: tl.constexpr = (OUT_H + ROWS - 1) // ROWS * col_tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    row = first_row(tile // col_tiles, OUT_H, ROWS)
    cols = tile % col_tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[:, None, None]
    width_blocks: tl.constexpr = (WIDTH + BLOCK_WIDTH - 1) // BLOCK_WIDTH
    groups = tl.program_id(1) // width_blocks * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)[None, :, None]
    within = tl.program_id(1) % width_blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, None, :]
    channels = groups * WIDTH + within
    real = (groups < GROUPS) & (within < WIDTH)
    source_ptr += image * source_image
    weight_ptr += image * weight_image
    out_ptr += image * out_image

    all_rows: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    start: tl.constexpr = first_inside(OUT_H <= ROWS, BASE_H)
    end: tl.constexpr = end_inside(OUT_H <= ROWS, BASE_H, SOURCE_H, all_rows)
    zero = tl.zeros((BLOCK_COLS, BLOCK_GROUPS, BLOCK_WIDTH), ACC)
    sums = (zero,)
    for _ in tl.static_range(ROWS - 1):
        sums = sums + (zero,)
    for v in range(TAPS_W):
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        inside = real & (source_cols >= 0) & (source_cols < SOURCE_W)
        taps = ()
        if WEIGHTS == PER_CHANNEL:
            for t in tl.static_range(TAPS_H):
                at = weight_ptr + t * WEIGHT_TAP_H + v * WEIGHT_TAP_W + channels
                taps = taps + (tl.load(at, mask=real, other=0.0).to(ACC),)
        for u in tl.static_range(start, end):
            source_row = row * STRIDE_H + BASE_H + u
            seen = tl.where((source_row >= 0) & (source_row < SOURCE_H), inside, False)
            at = source_ptr + source_row * SOURCE_ROW + source_cols * SOURCE_COL + channels
            x = tl.load(at, mask=seen, other=0.0).to(ACC)
            new = ()
            for r in tl.static_range(ROWS):
                if (
                    (u >= r * STRIDE_H)
                    & ((u - r * STRIDE_H) % DILATION_H == 0)
                    & (u <= r * STRIDE_H + (TAPS_H - 1) * DILATION_H)
                ):
                    if WEIGHTS == PER_CHANNEL:
                        k = taps[(u - r * STRIDE_H) // DILATION_H]
                    else:
                        if WEIGHTS == AT_OUTPUT:
                            pixel = (row + r) * WEIGHT_ROW + cols * WEIGHT_COL
                            valid = tl.where(row + r < OUT_H, (groups < GROUPS) & (cols < OUT_W), False)
                        else:
                            pixel = source_row * WEIGHT_ROW + source_cols * WEIGHT_COL
                            there = (groups < GROUPS) & (source_cols >= 0) & (source_cols < SOURCE_W)
                            valid = tl.where((source_row >= 0) & (source_row < SOURCE_H), there, False)
                        at = weight_ptr + pixel + groups * WEIGHT_GROUP + v * WEIGHT_TAP_W
                        at += (u - r * STRIDE_H) // DILATION_H * WEIGHT_TAP_H
                        k = tl.load(at, mask=valid, other=0.0).to(ACC)
                    new = new + (sums[r] + x * k,)
                else:
                    new = new + (sums[r],)
            sums = new

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channels, mask=real, other=0.0).to(ACC)
    for r in tl.static_range(ROWS):
        y = sums[r]
        if bias_ptr is not None:
            y += bias
        y *= SCALE
        kept = tl.where(row + r < OUT_H, real & (cols < OUT_W), False)
        if GATED > 0:
            at = gate_ptr + image * gate_image + (row + r) * GATE_ROW + cols * GATE_COL + channels
            y *= tl.load(at, mask=kept & (channels < GATED), other=1.0).to(ACC)
        at = out_ptr + (row + r) * OUT_ROW + cols * OUT_COL + channels
        tl.store(at, y.to(out_ptr.dtype.element_ty), mask=kept)


@triton.jit
def _stack(parts, COUNT: tl.constexpr):
    """COUNT (1, 2, 4, 8, 16 or 32) tensors of one shape, stacked along new last dimensions, the first the major."""
    if COUNT > 16:
        parts = _pairs(parts, 16)
    if COUNT > 8:
        parts = _pairs(parts, 8)
    if COUNT > 4:
        parts = _pairs(parts, 4)
    if COUNT > 2:
        parts = _pairs(parts, 2)
    if COUNT > 1:
        parts = _pairs(parts, 1)
    return parts[0]


@triton.jit
def _pairs(parts, HALF: tl.constexpr):
    pairs = ()
    for i in tl.static_range(HALF):
        pairs = pairs + (tl.join(parts[i], parts[i + HALF]),)
    return pairs


@triton.jit
def window_product(
    source_ptr,
    grad_ptr,
    out_ptr,
    source_image,
    grad_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    GRAD_H: tl.constexpr,
    GRAD_W: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_COL: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    OUT_TAP_H: tl.constexpr,
    OUT_TAP_W: tl.constexpr,
    OUT_GROUP: tl.constexpr,
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
    ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
):
    """out[pixel, group, tap] = sum over the channels of a group of grad[pixel] * source[pixel of the tap].

    BLOCK_WIDTH >= WIDTH: one program has all channels of a group.
    """
    col_tiles: tl.constexpr = (GRAD_W + BLOCK_COLS - 1) // BLOCK_COLS
    tiles: tl.constexpr = (GRAD_H + ROWS - 1) // ROWS * col_tiles
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    row = first_row(tile // col_tiles, GRAD_H, ROWS)
    cols = tile % col_tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[:, None, None]
    groups = tl.program_id(1) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)[None, :, None]
    within = tl.arange(0, BLOCK_WIDTH)[None, None, :]
    taps = tl.arange(0, TAPS)[None, None, :]
    channels = groups * WIDTH + within
    real = (groups < GROUPS) & (within < WIDTH)
    source_ptr += image * source_image
    grad_ptr += image * grad_image
    out_ptr += image * out_image
    grads = ()
    for r in tl.static_range(ROWS):
        kept = tl.where(row + r < GRAD_H, real & (cols < GRAD_W), False)
        at = grad_ptr + (row + r) * GRAD_ROW + cols * GRAD_COL + channels
        grads = grads + (tl.load(at, mask=kept, other=0.0).to(ACC),)
    all_rows: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    start: tl.constexpr = first_inside(GRAD_H <= ROWS, BASE_H)
    end: tl.constexpr = end_inside(GRAD_H <= ROWS, BASE_H, SOURCE_H, all_rows)
    zero = tl.zeros((BLOCK_COLS, BLOCK_GROUPS), ACC)
    for v in range(TAPS_W):
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        inside = real & (source_cols >= 0) & (source_cols < SOURCE_W)
        sums = (zero,)
        for _ in tl.static_range(ROWS * TAPS - 1):
            sums = sums + (zero,)
        for u in tl.static_range(start, end):
            source_row = row * STRIDE_H + BASE_H + u
            seen = tl.where((source_row >= 0) & (source_row < SOURCE_H), inside, False)
            at = source_ptr + source_row * SOURCE_ROW + source_cols * SOURCE_COL + channels
            x = tl.load(at, mask=seen, other=0.0).to(ACC)
            new = ()
            for r in tl.static_range(ROWS):
                for t in tl.static_range(TAPS):
                    if u == r * STRIDE_H + t * DILATION_H and t < TAPS_H:
                        new = new + (tl.sum(grads[r] * x, axis=2),)
                    else:
                        new = new + (sums[r * TAPS + t],)
            sums = new
        for r in tl.static_range(ROWS):
            level = ()
            for t in tl.static_range(TAPS):
                level = level + (sums[r * TAPS + t],)
            y = tl.reshape(_stack(level, TAPS), (BLOCK_COLS, BLOCK_GROUPS, TAPS))
            valid = tl.where(row + r < GRAD_H, (groups < GROUPS) & (cols < GRAD_W) & (taps < TAPS_H), False)
            to = (row + r) * OUT_ROW + cols * OUT_COL + groups * OUT_GROUP + taps * OUT_TAP_H + v * OUT_TAP_W
            tl.store(out_ptr + to, y.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit
def window_partials(
    source_ptr,
    grad_ptr,
    out_ptr,
    source_image,
    grad_image,
    num_tiles,
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
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """out[part, tap, channel] = sum over the part's pixels of grad[pixel] * source[pixel of the tap].

    A part has every PARTS-th tile of all images, so the order of each sum is fixed. One program has one column of taps.
    """
    col_tiles: tl.constexpr = (GRAD_W + BLOCK_COLS - 1) // BLOCK_COLS
    tiles: tl.constexpr = (GRAD_H + ROWS - 1) // ROWS * col_tiles
    part = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)[None, :]
    v = tl.program_id(2)
    real = channels < CHANNELS
    all_rows: tl.constexpr = (ROWS - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1
    start: tl.constexpr = first_inside(GRAD_H <= ROWS, BASE_H)
    end: tl.constexpr = end_inside(GRAD_H <= ROWS, BASE_H, SOURCE_H, all_rows)
    zero = tl.zeros((BLOCK_COLS, BLOCK_WIDTH), ACC)
    sums = (zero,)
    for _ in tl.static_range(TAPS_H - 1):
        sums = sums + (zero,)
    for done in range(0, num_tiles - part, PARTS):
        tile = part + done
        image = (tile // tiles).to(tl.int64)
        row = first_row(tile % tiles // col_tiles, GRAD_H, ROWS)
        cols = tile % col_tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[:, None]
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        inside = real & (source_cols >= 0) & (source_cols < SOURCE_W)
        grads = ()
        for r in tl.static_range(ROWS):
            kept = tl.where(row + r < GRAD_H, real & (cols < GRAD_W), False)
            at = grad_ptr + image * grad_image + (row + r) * GRAD_ROW + cols * GRAD_COL + channels
            grads = grads + (tl.load(at, mask=kept, other=0.0).to(ACC),)
        for u in tl.static_range(start, end):
            source_row = row * STRIDE_H + BASE_H + u
            seen = tl.where((source_row >= 0) & (source_row < SOURCE_H), inside, False)
            at = source_ptr + image * source_image + source_row * SOURCE_ROW + source_cols * SOURCE_COL + channels
            x = tl.load(at, mask=seen, other=0.0).to(ACC)
            new = ()
            for t in tl.static_range(TAPS_H):
                if (
                    (u >= t * DILATION_H)
                    & ((u - t * DILATION_H) % STRIDE_H == 0)
                    & (u <= t * DILATION_H + (ROWS - 1) * STRIDE_H)
                ):
                    new = new + (sums[t] + grads[(u - t * DILATION_H) // STRIDE_H] * x,)
                else:
                    new = new + (sums[t],)
            sums = new
    for t in tl.static_range(TAPS_H):
        at = out_ptr + ((part * TAPS_H + t) * TAPS_W + v) * CHANNELS + channels
        tl.store(at, tl.sum(sums[t], axis=0)[None, :], mask=real)
