"""What the window kernels are told: strides and taps from tensors, tiles from the counted cost of a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    return min(range(1, most + 1), key=lambda rows: (_column(size, rows, axis), rows))


def instructions(size: Sequence[int], channels: int, axis: Axis, tile: Mapping[str, int]) -> float:
    """Of the values of an image and a column of taps, idle lanes among them, in multiply-adds."""
    cols, width = tile["BLOCK_COLS"], tile["BLOCK_WIDTH"]
    lanes = -(-size[1] // cols) * cols * -(-channels // width) * width
    return lanes * _column(size[0], tile["ROWS"], axis)


def _column(size: int, rows: int, axis: Axis) -> float:
    """Of a column of `size` values, by programs of so many rows."""
    loads = (rows - 1) * axis.stride + max(0, axis.taps - 1) * axis.dilation + 1
    return -(-size // rows) * (rows * axis.taps + LOAD_COST * loads + PROGRAM_COST)


def best_cols(size: int, channels: int) -> int:
    """Columns per program: the fewest idle ones, then as near to a full tile as there is."""
    most = max(1, TILE // channels)
    options = [c for c in (1, 2, 4, 8, 16, 32) if c <= most]
    return min(
        options, key=lambda c: (-(-size // c) * c if c >= 4 or c >= size else 2 * size, abs(c * channels - TILE))
    )


def warp_tile(size: int, channels: int, warps: int = 1) -> dict[str, int]:
    """Columns and channels of a program of so many warps: the fewest idle lanes, then 32 channels, 64 bytes of
    bfloat16."""

    def idle(width: int) -> float:
        cols = warps * WARP_TILE // width
        return -(-size // cols) * cols * -(-channels // width) * width

    width = min((1, 2, 4, 8, 16, 32, 64), key=lambda width: (idle(width), abs(width - 32)))
    return {"BLOCK_COLS": warps * WARP_TILE // width, "BLOCK_WIDTH": width, "num_warps": warps}


def block_tile(config: Mapping[str, int] | None, default: dict[str, int]) -> tuple[dict[str, int], int]:
    """(constants of a tile, warps): measured ones where a table has them; `default` knows of a second tile."""
    chosen = {**default, **(config or {})}
    chosen.pop("SECOND", None)
    warps = chosen.pop("num_warps")
    return chosen, warps


def warps(values: int, each: int = 8) -> int:
    """Warps for a tile of `values` per row, `each` per thread: 8 are 16 bytes of half precision."""
    return max(1, min(8, power_of_two(values // (32 * each))))
