"""The recursion as products of matrices one behind the other: a program takes a block of pixels through all steps.

What a step makes stays in registers; memory sees the gates once and the result once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, float32_precision, interpreted, power_of_two
from .._core.prepared import start
from .._core.tensors import new_map
from .._triton import window_host
from .._triton.product import rows_of_pixels
from . import MAX_STEPS

Config = Mapping[str, int] | None


@triton.jit
def mapped(
    y,
    weight_ptr,
    bias_ptr,
    first,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    BLOCK_OUTER: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y [pixels,INNER] times the rows [first, first + BLOCK_OUTER) of weight [OUTER,INNER], plus the bias."""
    inner = tl.arange(0, BLOCK_INNER)[:, None]
    outer = first + tl.arange(0, BLOCK_OUTER)[None, :]
    at = weight_ptr + outer * INNER + inner
    weight = tl.load(at, mask=(outer < OUTER) & (inner < INNER), other=0.0)
    if WIDE:
        sums = tl.dot(y, weight.to(ACC), input_precision=PRECISION, out_dtype=ACC)
    else:
        sums = tl.dot(y.to(DTYPE), weight.to(DTYPE), input_precision=PRECISION)
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + outer, mask=outer < OUTER, other=0.0).to(ACC)
    return sums


@triton.jit
def gated_step(
    y,
    gate_ptr,
    rows,
    pixels,
    weight_ptr,
    bias_ptr,
    PIXEL: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    BLOCK_OUTER: tl.constexpr,
    DTYPE: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y mapped to OUTER channels, times the gate of each pixel; zero past the last channel."""
    outer = tl.arange(0, BLOCK_OUTER)[None, :]
    gate = tl.load(gate_ptr + rows * PIXEL + outer, mask=(rows < pixels) & (outer < OUTER), other=0.0).to(ACC)
    return gate * mapped(
        y, weight_ptr, bias_ptr, 0, INNER, OUTER, BLOCK_INNER, BLOCK_OUTER, DTYPE, ACC, WIDE, PRECISION
    )


@triton.jit
def recursive_gates(
    y_ptr,
    a_ptr,
    weight_1_ptr,
    bias_1_ptr,
    weight_2_ptr,
    bias_2_ptr,
    weight_3_ptr,
    bias_3_ptr,
    weight_4_ptr,
    bias_4_ptr,
    out_weight_ptr,
    out_bias_ptr,
    out_ptr,
    pixels,
    Y_PIXEL: tl.constexpr,
    A_PIXEL: tl.constexpr,
    OUT_PIXEL: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    WIDTH_2: tl.constexpr,
    WIDTH_3: tl.constexpr,
    WIDTH_4: tl.constexpr,
    BLOCK_0: tl.constexpr,
    BLOCK_1: tl.constexpr,
    BLOCK_2: tl.constexpr,
    BLOCK_3: tl.constexpr,
    BLOCK_4: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK_LAST: tl.constexpr,
    OUT: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """y = (weight_i y + bias_i) * the next channels of a for every weight there is; then out = out_weight y + out_bias.

    LAST is the width of the last step. WIDE: multiply in the dtype of the sums; the interpreter cannot multiply
    bfloat16.
    """
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    rows = tl.program_id(0).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    inner = tl.arange(0, BLOCK_0)[None, :]
    y = tl.load(y_ptr + rows * Y_PIXEL + inner, mask=(rows < pixels) & (inner < WIDTH_0), other=0.0).to(ACC)
    y = gated_step(
        y, a_ptr, rows, pixels, weight_1_ptr, bias_1_ptr, A_PIXEL,
        WIDTH_0, WIDTH_1, BLOCK_0, BLOCK_1, DTYPE, ACC, WIDE, PRECISION,
    )  # fmt: skip
    a_ptr += WIDTH_1
    if weight_2_ptr is not None:
        y = gated_step(
            y, a_ptr, rows, pixels, weight_2_ptr, bias_2_ptr, A_PIXEL,
            WIDTH_1, WIDTH_2, BLOCK_1, BLOCK_2, DTYPE, ACC, WIDE, PRECISION,
        )  # fmt: skip
        a_ptr += WIDTH_2
    if weight_3_ptr is not None:
        y = gated_step(
            y, a_ptr, rows, pixels, weight_3_ptr, bias_3_ptr, A_PIXEL,
            WIDTH_2, WIDTH_3, BLOCK_2, BLOCK_3, DTYPE, ACC, WIDE, PRECISION,
        )  # fmt: skip
        a_ptr += WIDTH_3
    if weight_4_ptr is not None:
        y = gated_step(
            y, a_ptr, rows, pixels, weight_4_ptr, bias_4_ptr, A_PIXEL,
            WIDTH_3, WIDTH_4, BLOCK_3, BLOCK_4, DTYPE, ACC, WIDE, PRECISION,
        )  # fmt: skip
    for first in range(0, OUT, BLOCK_OUT):
        sums = mapped(
            y, out_weight_ptr, out_bias_ptr, first, LAST, OUT, BLOCK_LAST, BLOCK_OUT, DTYPE, ACC, WIDE, PRECISION
        )
        outer = first + tl.arange(0, BLOCK_OUT)[None, :]
        at = out_ptr + rows * OUT_PIXEL + outer
        tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=(rows < pixels) & (outer < OUT))


def forward(y, a, out_weight, out_bias, steps: Sequence, config: Config = None) -> torch.Tensor:
    """y [N,D_0,H,W], a [N,D_1+...+D_n,H,W], steps weight, bias, weight, ... -> [N,C',H,W] channels_last."""
    out = new_map(y, out_weight.shape[0], y.shape[2:])
    if out.numel():
        y, a, rows = map(rows_of_pixels, (y, a, out))
        out_bias, *biases = (None if t is None else t.contiguous() for t in (out_bias, *steps[1::2]))
        out_weight, *weights = (None if t is None else t.flatten(1).contiguous() for t in (out_weight, *steps[::2]))
        steps = [t for step in zip(weights, biases, strict=True) for t in step]
        start(recursion_launch, y, a, rows, out_weight, out_bias, config, *steps)
    return out


def recursion_launch(y, a, out, out_weight, out_bias, config: Config = None, *steps: torch.Tensor | None) -> Launch:
    """y [M,D_0], a [M,D_1+...+D_n] -> the launch that fills `out` [M,C']; rows of any stride, weights [C_out,C_in]."""
    weights, biases = ([*steps[i::2], *(None,) * MAX_STEPS][:MAX_STEPS] for i in (0, 1))
    widths = [y.shape[1], *(0 if w is None else w.shape[0] for w in weights)]
    last = out_weight.shape[1]
    half = y.dtype in (torch.float16, torch.bfloat16)
    pixels, most = (64, 64) if half else (32, 32)
    default = {"BLOCK_PIXELS": pixels, "BLOCK_OUT": min(most, _block(out.shape[1])), "num_warps": 4}
    tile, warps = window_host.block_tile(config, default)
    arguments = {
        "y_ptr": y,
        "a_ptr": a,
        **{f"weight_{i}_ptr": w for i, w in enumerate(weights, 1)},
        **{f"bias_{i}_ptr": b for i, b in enumerate(biases, 1)},
        "out_weight_ptr": out_weight,
        "out_bias_ptr": out_bias,
        "out_ptr": out,
        "pixels": y.shape[0],
    }
    constants = {
        "Y_PIXEL": y.stride(0),
        "A_PIXEL": a.stride(0),
        "OUT_PIXEL": out.stride(0),
        **{f"WIDTH_{i}": width for i, width in enumerate(widths)},
        **{f"BLOCK_{i}": _block(width) for i, width in enumerate(widths)},
        "LAST": last,
        "BLOCK_LAST": _block(last),
        "OUT": out.shape[1],
        "ACC": window_host.sum_dtype(y.dtype),
        "WIDE": interpreted() or y.dtype == torch.float64,
        "PRECISION": float32_precision(),
        **tile,
    }
    return Launch(recursive_gates, (-(-y.shape[0] // tile["BLOCK_PIXELS"]),), arguments, constants, warps)


def _block(width: int) -> int:
    return max(16, power_of_two(width))
