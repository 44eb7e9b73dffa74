"""A program per cell of the coarse map: it reads the cell once for all pixels that look at it.

The backward pass is one pass too: the gradients of x and k3 are written and that of the cell is summed, in a fixed
order, while each pixel is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, power_of_two
from .._core.prepared import start
from .._core.tensors import channels_inside
from .._triton import window_host
from . import reference

Config = Mapping[str, int] | None


@triton.jit
def first_reader(cell, step, SMALL: tl.constexpr, SIZE: tl.constexpr):
    """The first of SIZE pixels that reads at `cell` or past it; pixel p reads at floor(p * step) in float32.

    The exact bound is off by one at most, where float32 rounds.
    """
    first = (cell * SIZE + SMALL - 1) // SMALL
    before = tl.maximum(first - 1, 0)
    first = tl.where(tl.floor(before.to(tl.float32) * step) >= cell, before, first)
    first = tl.where(tl.floor(first.to(tl.float32) * step) < cell, first + 1, first)
    return tl.where(cell >= SMALL, SIZE, first)


@triton.jit
def calibrated_gate(
    x_ptr,
    k3_ptr,
    k2_ptr,
    out_ptr,
    grad_ptr,
    grad_k3_ptr,
    grad_k2_ptr,
    x_image,
    k3_image,
    k2_image,
    out_image,
    grad_image,
    grad_k3_image,
    grad_k2_image,
    step_h,
    step_w,
    CHANNELS: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    SMALL_H: tl.constexpr,
    SMALL_W: tl.constexpr,
    X_ROW: tl.constexpr,
    X_COL: tl.constexpr,
    K3_ROW: tl.constexpr,
    K3_COL: tl.constexpr,
    K2_ROW: tl.constexpr,
    K2_COL: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_COL: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """out = k3 * sigmoid(x + k2 of the cell), or, where there is a grad, out = the gradient of x, and those of k3, k2.

    WINDOW: the most pixels per axis that read one cell. What is written is channels_last.
    """
    channel_blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    channels = tl.program_id(0) % channel_blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    cell = tl.program_id(0) // channel_blocks
    cell_w, cell_h = cell % SMALL_W, cell // SMALL_W % SMALL_H
    image = (cell // (SMALL_W * SMALL_H)).to(tl.int64)
    inside = channels < CHANNELS
    coarse_at = k2_ptr + image * k2_image + cell_h * K2_ROW + cell_w * K2_COL + channels
    coarse = tl.load(coarse_at, mask=inside, other=0.0).to(ACC)
    top, bottom = first_reader(cell_h, step_h, SMALL_H, H), first_reader(cell_h + 1, step_h, SMALL_H, H)
    left, right = first_reader(cell_w, step_w, SMALL_W, W), first_reader(cell_w + 1, step_w, SMALL_W, W)
    total = tl.zeros((1, BLOCK_CHANNELS), ACC)
    for i in range(WINDOW_H):
        row = top + i
        end = tl.where(row < bottom, right, left)
        for j in range(0, WINDOW_W, BLOCK_COLS):
            cols = left + j + tl.arange(0, BLOCK_COLS)[:, None]
            kept = (cols < end) & inside
            x = tl.load(x_ptr + image * x_image + row * X_ROW + cols * X_COL + channels, mask=kept, other=0.0).to(ACC)
            k3_at = k3_ptr + image * k3_image + row * K3_ROW + cols * K3_COL + channels
            k3 = tl.load(k3_at, mask=kept, other=0.0).to(ACC)
            gate = 1.0 / (1.0 + tl.exp(-(x + coarse)))
            written = (row * W + cols) * CHANNELS + channels
            out = k3 * gate
            if grad_ptr is not None:
                grad_at = grad_ptr + image * grad_image + row * GRAD_ROW + cols * GRAD_COL + channels
                gated = tl.load(grad_at, mask=kept, other=0.0).to(ACC) * gate
                grad_k3_at = grad_k3_ptr + image * grad_k3_image + written
                tl.store(grad_k3_at, gated.to(grad_k3_ptr.dtype.element_ty), mask=kept)
                out = gated * k3 * (1.0 - gate)
                total += tl.sum(tl.where(kept, out, 0.0), 0, keep_dims=True)
            tl.store(out_ptr + image * out_image + written, out.to(out_ptr.dtype.element_ty), mask=kept)
    if grad_ptr is not None:
        summed_at = grad_k2_ptr + image * grad_k2_image + (cell_h * SMALL_W + cell_w) * CHANNELS + channels
        tl.store(summed_at, total.to(grad_k2_ptr.dtype.element_ty), mask=inside)


def forward(x, k3, k2, config: Config = None) -> torch.Tensor:
    """x and k3 [N,C,H,W], k2 [N,C,h,w] -> [N,C,H,W] channels_last."""
    x, k3, k2 = map(channels_inside, (x, k3, k2))
    dtype = torch.promote_types(torch.promote_types(x.dtype, k3.dtype), k2.dtype)
    out = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        start(gate_launch, x, k3, k2, out, config)
    return out


def grads(grad, x, k3, k2, config: Config = None) -> tuple[torch.Tensor, ...]:
    """The gradients of x, k3 and k2 in one pass, each in its dtype, channels_last."""
    grad, x, k3, k2 = map(channels_inside, (grad, x, k3, k2))
    found = tuple(torch.empty_like(t, memory_format=torch.channels_last) for t in (x, k3, k2))
    if x.numel():
        start(gate_launch, x, k3, k2, found[0], config, grad, *found[1:])
    return found


@cache
def most_readers(size: int, small: int) -> int:
    """The most of `size` pixels that read one of `small` cells."""
    return int(reference.source(size, small, torch.device("cpu")).bincount().max())


def gate_launch(x, k3, k2, out, config: Config = None, grad=None, grad_k3=None, grad_k2=None) -> Launch:
    """The launch that fills `out`; all [N,C,H,W].

    With `grad`, the gradient of the result, that of x goes to `out`, and those of k3 and k2 to the tensors for them.
    """
    (n, c, *size), small = x.shape, k2.shape[2:]
    windows = [most_readers(s, cells) for s, cells in zip(size, small, strict=True)]
    default = {"BLOCK_COLS": min(16, power_of_two(windows[1])), "BLOCK_CHANNELS": min(64, power_of_two(c))}
    values = default["BLOCK_COLS"] * default["BLOCK_CHANNELS"]
    tile, warps = window_host.block_tile(config, {**default, "num_warps": window_host.warps(values)})
    written = {"out": out, "grad": grad, "grad_k3": grad_k3, "grad_k2": grad_k2}
    maps = {"x": x, "k3": k3, "k2": k2, **written}
    strided = {"X": x, "K3": k3, "K2": k2, "GRAD": x if grad is None else grad}
    steps = [torch.tensor(cells / s, dtype=torch.float32).item() for s, cells in zip(size, small, strict=True)]
    return Launch(
        calibrated_gate,
        (n * small[0] * small[1] * -(-c // tile["BLOCK_CHANNELS"]),),
        {f"{name}_ptr": t for name, t in maps.items()}
        | {f"{name}_image": 0 if t is None else t.stride(0) for name, t in maps.items()}
        | {"step_h": steps[0], "step_w": steps[1]},
        {
            **{"CHANNELS": c, "H": size[0], "W": size[1], "SMALL_H": small[0], "SMALL_W": small[1]},
            **{f"{name}_ROW": t.stride(2) for name, t in strided.items()},
            **{f"{name}_COL": t.stride(3) for name, t in strided.items()},
            **{"WINDOW_H": windows[0], "WINDOW_W": windows[1], "ACC": window_host.sum_dtype(out.dtype), **tile},
        },
        warps,
    )
