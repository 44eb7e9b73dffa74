"""What the window kernels are told: strides and taps from tensors, tiles from the counted cost of a program."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton.language as tl

from .._core.geometry import Axis
from .._core.launch import power_of_two
from .._core.tensors import accumulator

TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
LOAD_COST = 2.5  # instructions to load and convert a value, in multiply-adds (sm_90 machine code, bfloat16)
PROGRAM_COST = 20  # what a program of its own takes per value of a row: addresses, bias, store
MAX_ROWS = 8
TALL_ROWS = 14  # of a program of one warp, 4 values of a row per thread: 152 registers with seven taps
WARP_TILE = 128  # values of one row of such a program
TILE = 512  # values of one row that a program holds: 8 per thread at 2 warps


def map_constants(name: str, t: torch.Tensor) -> dict[str, int]:
    """Size and strides of a map [N,C,H,W] under the kernel's names for it."""
    return {
        f"{name}_H": t.shape[2],
        f"{name}_W": t.shape[3],
        f"{name}_ROW": t.stride(2),
        f"{name}_COL": t.stride(3),
    }


def axis_constants(axes: tuple[Axis, Axis]) -> dict[str, int]:
    """Taps and steps of both axes."""
    return {
        f"{field}_{suffix}": getattr(axis, field.lower())
        for axis, suffix in zip(axes, "HW", strict=True)
        for field in ("TAPS", "BASE", "STRIDE", "DILATION")
    }


def sum_dtype(dtype: torch.dtype) -> tl.dtype:
    """The kernel's name for what sums of `dtype` are kept in."""
    return TRITON_DTYPES[accumulator(dtype)]


def best_rows(size: int, axis: Axis, most: int = MAX_ROWS) -> int:
    """Rows per program with the fewest instructions for `size` rows: reuse of loaded rows against idle last tiles."""

    def cost(rows: int) -> float:
        loads = (rows - 1) * axis.stride + max(0, axis.taps - 1) * axis.dilation + 1
        return -(-size // rows) * (rows * axis.taps + LOAD_COST * loads + PROGRAM_COST)

    return min(range(1, most + 1), key=lambda rows: (cost(rows), rows))


def best_cols(size: int, channels: int) -> int:
    """Columns per program: the fewest idle ones, then as near to a full tile as there is."""
    most = max(1, TILE // channels)
    options = [c for c in (1, 2, 4, 8, 16, 32) if c <= most]
    return min(
        options, key=lambda c: (-(-size // c) * c if c >= 4 or c >= size else 2 * size, abs(c * channels - TILE))
    )


def warp_tile(size: int, channels: int) -> dict[str, int]:
    """Columns and channels of a program of one warp: the fewest idle lanes, then 32 channels, 64 bytes of bfloat16."""

    def idle(width: int) -> float:
        cols = WARP_TILE // width
        return -(-size // cols) * cols * -(-channels // width) * width

    width = min((1, 2, 4, 8, 16, 32, 64), key=lambda width: (idle(width), abs(width - 32)))
    return {"BLOCK_COLS": WARP_TILE // width, "BLOCK_WIDTH": width}


def block_tile(config: Mapping[str, int] | None, default: dict[str, int]) -> tuple[dict[str, int], int]:
    """(constants of a tile, warps): measured ones where a table has them."""
    chosen = {**default, **(config or {})}
    warps = chosen.pop("num_warps")
    return chosen, warps


def warps(values: int, each: int = 8) -> int:
    """Warps for a tile of `values` per row, `each` per thread: 8 are 16 bytes of half precision."""
    return max(1, min(8, power_of_two(values // (32 * each))))
