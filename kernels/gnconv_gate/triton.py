"""The gating step as one matrix product over pixels, whose epilogue adds the bias and multiplies by the gate.

The mapped values never reach memory. The gradient of the gate is the same kernel with the upstream gradient as gate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, float32_precision, interpreted, power_of_two
from .._core.prepared import start
from .._triton import window_host
from .._triton.product import rows_of_pixels

Config = Mapping[str, int] | None


@triton.jit
def gated_product(
    y_ptr,
    gate_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    pixels,
    Y_PIXEL: tl.constexpr,
    GATE_PIXEL: tl.constexpr,
    OUT_PIXEL: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTER: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
):
    """out[pixel, o] = (sum_i y[pixel, i] * weight[o, i] + bias[o]) * gate[pixel, o].

    WIDE: multiply in the dtype of the sums; the interpreter cannot multiply bfloat16.
    """
    outer_blocks: tl.constexpr = (OUTER + BLOCK_OUTER - 1) // BLOCK_OUTER
    block = tl.program_id(0) // outer_blocks
    rows = block.to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    outer = tl.program_id(0) % outer_blocks * BLOCK_OUTER + tl.arange(0, BLOCK_OUTER)[None, :]
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_OUTER), ACC)
    for first in range(0, INNER, BLOCK_INNER):
        inner = first + tl.arange(0, BLOCK_INNER)
        y_at = y_ptr + rows * Y_PIXEL + inner[None, :]
        y = tl.load(y_at, mask=(rows < pixels) & (inner[None, :] < INNER), other=0.0)
        weight_at = weight_ptr + outer * INNER + inner[:, None]
        weight = tl.load(weight_at, mask=(outer < OUTER) & (inner[:, None] < INNER), other=0.0)
        if WIDE:
            sums = tl.dot(y.to(ACC), weight.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(y, weight.to(y_ptr.dtype.element_ty), sums, input_precision=PRECISION)
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + outer, mask=outer < OUTER, other=0.0).to(ACC)
    kept = (rows < pixels) & (outer < OUTER)
    sums *= tl.load(gate_ptr + rows * GATE_PIXEL + outer, mask=kept, other=0.0).to(ACC)
    tl.store(out_ptr + rows * OUT_PIXEL + outer, sums.to(out_ptr.dtype.element_ty), mask=kept)


def forward(y, a, weight, bias, config: Config = None) -> torch.Tensor:
    """y [N,D,H,W], a [N,D',H,W], weight [D',D,1,1], bias [D'] -> [N,D',H,W] channels_last."""
    dtype = torch.promote_types(y.dtype, a.dtype)
    out = torch.empty(a.shape, dtype=dtype, device=a.device, memory_format=torch.channels_last)
    if out.numel():
        y, a, rows = map(rows_of_pixels, (y, a, out))
        bias = None if bias is None else bias.contiguous()
        start(gate_launch, y, a, weight.flatten(1).contiguous(), bias, rows, config)
    return out


def gate_launch(y, a, weight, bias, out, config: Config = None) -> Launch:
    """y [M,D], a [M,D'], weight [D',D], bias [D'] -> the launch that fills `out` [M,D']; rows of any stride."""
    inner, outer = y.shape[1], a.shape[1]
    narrow = max(16, min(64, power_of_two(inner)))
    default = {"BLOCK_PIXELS": 128, "BLOCK_OUTER": max(16, min(128, power_of_two(outer))), "BLOCK_INNER": narrow}
    if y.dtype not in (torch.float16, torch.bfloat16):
        default = {"BLOCK_PIXELS": 64, "BLOCK_OUTER": min(64, default["BLOCK_OUTER"]), "BLOCK_INNER": min(32, narrow)}
    if default["BLOCK_OUTER"] <= 32:
        default["BLOCK_PIXELS"] = 64
    tile, warps = window_host.block_tile(config, {**default, "num_warps": 4 if default["BLOCK_OUTER"] <= 64 else 8})
    arguments = {
        "y_ptr": y,
        "gate_ptr": a,
        "weight_ptr": weight,
        "bias_ptr": bias,
        "out_ptr": out,
        "pixels": y.shape[0],
    }
    constants = {
        "Y_PIXEL": y.stride(0),
        "GATE_PIXEL": a.stride(0),
        "OUT_PIXEL": out.stride(0),
        "INNER": inner,
        "OUTER": outer,
        "ACC": window_host.sum_dtype(y.dtype),
        "WIDE": interpreted() or y.dtype == torch.float64,
        "PRECISION": float32_precision(),
        **tile,
    }
    grid = (-(-y.shape[0] // tile["BLOCK_PIXELS"]) * -(-outer // tile["BLOCK_OUTER"]),)
    return Launch(gated_product, grid, arguments, constants, warps)
