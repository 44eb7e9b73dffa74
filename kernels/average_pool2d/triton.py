"""Both passes in one kernel: a program has a block of cells, reads or writes their windows, channels side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, power_of_two
from .._core.prepared import start
from .._core.tensors import channels_inside, new_map
from .._triton import window_host

Config = Mapping[str, int] | None


@triton.jit
def pooled_windows(
    fine_ptr,
    coarse_ptr,
    images,
    fine_image,
    coarse_image,
    FINE_H: tl.constexpr,
    FINE_W: tl.constexpr,
    FINE_ROW: tl.constexpr,
    FINE_COL: tl.constexpr,
    COARSE_H: tl.constexpr,
    COARSE_W: tl.constexpr,
    COARSE_ROW: tl.constexpr,
    COARSE_COL: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    CELLS_H: tl.constexpr,
    CELLS_W: tl.constexpr,
    CHANNELS: tl.constexpr,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """coarse[cell] = mean of fine over the window of the cell; BACKWARD, fine[pixel] = coarse[its cell] / pixels of it.

    CELLS: as many as have a window, and in the backward pass those of which the map has only a part, which get 0.
    """
    channel_blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    channels = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    cell = (tl.program_id(0) // channel_blocks).to(tl.int64) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)[:, None]
    image, within = cell // (CELLS_H * CELLS_W), (cell % (CELLS_H * CELLS_W)).to(tl.int32)
    cell_h, cell_w = within // CELLS_W, within % CELLS_W
    real = (image < images) & (channels < CHANNELS)
    whole = real & (cell_h < COARSE_H) & (cell_w < COARSE_W)
    coarse_at = coarse_ptr + image * coarse_image + cell_h * COARSE_ROW + cell_w * COARSE_COL + channels
    values = tl.zeros((BLOCK_CELLS, BLOCK_CHANNELS), ACC)
    if BACKWARD:
        values = tl.load(coarse_at, mask=whole, other=0.0).to(ACC) / (WINDOW_H * WINDOW_W)
    for i in range(WINDOW_H):
        for j in range(WINDOW_W):
            row, col = cell_h * WINDOW_H + i, cell_w * WINDOW_W + j
            fine_at = fine_ptr + image * fine_image + row * FINE_ROW + col * FINE_COL + channels
            if BACKWARD:
                inside = real & (row < FINE_H) & (col < FINE_W)
                tl.store(fine_at, values.to(fine_ptr.dtype.element_ty), mask=inside)
            else:
                values += tl.load(fine_at, mask=whole, other=0.0).to(ACC)
    if not BACKWARD:
        tl.store(coarse_at, (values / (WINDOW_H * WINDOW_W)).to(coarse_ptr.dtype.element_ty), mask=whole)


def forward(x, window, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W] -> [N,C,H//h,W//w] channels_last."""
    x = channels_inside(x)
    out = new_map(x, x.shape[1], [x.shape[2 + a] // window[a] for a in (0, 1)])
    if out.numel():
        start(pool_launch, x, out, window, False, config)
    return out


def grad_input(grad, size, window, config: Config = None) -> torch.Tensor:
    """grad [N,C,H//h,W//w] -> gradient of x [N,C,*size], channels_last."""
    grad = channels_inside(grad)
    out = new_map(grad, grad.shape[1], size)
    if out.numel():
        start(pool_launch, out, grad, window, True, config)
    return out


def pool_launch(fine, coarse, window, backward: bool, config: Config = None) -> Launch:
    """The launch that fills `coarse` [N,C,H//h,W//w] from `fine` [N,C,H,W], or `backward` the other way."""
    n, c, *size = fine.shape
    cells = [-(-s // w) for s, w in zip(size, window, strict=True)] if backward else coarse.shape[2:]
    width = min(64, power_of_two(c))
    count = n * cells[0] * cells[1]
    default = {"BLOCK_CELLS": min(max(1, 512 // width), power_of_two(count)), "BLOCK_CHANNELS": width}
    values = default["BLOCK_CELLS"] * width
    tile, warps = window_host.block_tile(config, {**default, "num_warps": window_host.warps(values)})
    constants = {
        **window_host.map_constants("FINE", fine),
        **window_host.map_constants("COARSE", coarse),
        **{"WINDOW_H": window[0], "WINDOW_W": window[1], "CELLS_H": cells[0], "CELLS_W": cells[1], "CHANNELS": c},
        **{"BACKWARD": backward, "ACC": window_host.sum_dtype(fine.dtype)},
        **tile,
    }
    arguments = {
        "fine_ptr": fine,
        "coarse_ptr": coarse,
        "images": n,
        "fine_image": fine.stride(0),
        "coarse_image": coarse.stride(0),
    }
    grid = (-(-count // tile["BLOCK_CELLS"]) * -(-c // tile["BLOCK_CHANNELS"]),)
    return Launch(pooled_windows, grid, arguments, constants, warps)
