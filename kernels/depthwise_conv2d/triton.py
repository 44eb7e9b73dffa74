"""Depthwise convolution by the window kernels: forward, gradient of the input, gradient of the weight.

The filter is brought to [Kh,Kw,C] in float32 by one small copy, so that channels lie next to each other. The gradient
of the weight is summed in parts of fixed size and order: the same bits at every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from .._core.geometry import Axis, forward_axis, gradient_axes
from .._core.launch import Launch, multiprocessors
from .._core.prepared import start
from .._core.tensors import accumulator, channels_inside, new_map
from .._triton import window, window_host
from .._triton.window_host import MAX_ROWS, TALL_ROWS
from .shapes import TILE

Config = Mapping[str, int] | None
MANY_TAPS, FEW_ROWS = 7, 7  # of an axis, of a program


def forward(x, weight, bias, gate, stride, padding, scale, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,1,Kh,Kw], bias [C], gate [N,D,H',W'] -> [N,C,H',W'] channels_last."""
    x, gate = channels_inside(x), None if gate is None else channels_inside(gate)
    bias = None if bias is None else bias.contiguous()
    axes = [forward_axis(k, s, p) for k, s, p in zip(weight.shape[2:], stride, padding, strict=True)]
    size = [(h - a.taps - 2 * a.base) // a.stride + 1 for h, a in zip(x.shape[2:], axes, strict=True)]
    out = new_map(x, x.shape[1], size)
    if out.numel():
        start(window_launch, x, _packed(weight, x.dtype), bias, gate, out, (axes[0], axes[1]), scale, config)
    return out


def grad_input(grad, weight, size, stride, padding, scale, config: Config = None) -> torch.Tensor:
    """grad [N,C,H',W'], weight [C,1,Kh,Kw] -> gradient of x [N,C,*size], channels_last."""
    grad, packed = channels_inside(grad), _packed(weight, grad.dtype)
    out = new_map(grad, grad.shape[1], size)
    start(grad_input_launches, grad, packed, out, stride, padding, scale, config)
    return out


def grad_input_launches(grad, packed, out, stride, padding, scale, config: Config = None) -> Iterator[Launch]:
    """A launch per phase of the stride that has pixels."""
    rows, cols = (gradient_axes(k, s, p) for k, s, p in zip(packed.shape[:2], stride, padding, strict=True))
    for row in rows:
        for col in cols:
            phase = out[:, :, row.start :: row.jump, col.start :: col.jump]
            if phase.numel():
                yield window_launch(grad, packed, None, None, phase, (row, col), scale, config)


def grad_weight(grad, x, kernel_size, stride, padding, scale, config: Config = None) -> torch.Tensor:
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of the weight [C,1,*kernel_size] in float32 (float64 for float64)."""
    grad, x = channels_inside(grad), channels_inside(x)
    axes = [forward_axis(k, s, p) for k, s, p in zip(kernel_size, stride, padding, strict=True)]
    if not grad.numel():
        return grad.new_zeros((x.shape[1], 1, *kernel_size), dtype=accumulator(x.dtype))
    partials = start(grad_weight_launch, grad, x, (axes[0], axes[1]), config)[0]["out_ptr"]
    return (partials.sum(0) * scale).permute(2, 0, 1).unsqueeze(1).contiguous()


def grad_weight_launch(grad, x, axes: tuple[Axis, Axis], config: Config = None) -> Launch:
    """The launch, which makes partial sums [parts,Kh,Kw,C]."""
    channels, size = x.shape[1], grad.shape[2:]
    default = _tile(x.dtype, size, channels, axes[0], config)
    taps = (axes[0].taps, axes[1].taps)
    warps = default["num_warps"]
    places = (_resident(default["ROWS"], axes[0]) // warps - (warps - 1)) * multiprocessors()
    default["PARTS"] = _parts(-(-channels // default["BLOCK_WIDTH"]) * taps[1], places)
    tile, warps = window_host.block_tile(config, default)
    num_tiles = grad.shape[0] * -(-size[0] // tile["ROWS"]) * -(-size[1] // tile["BLOCK_COLS"])
    tile["PARTS"] = min(tile["PARTS"], num_tiles)
    partials = torch.empty((tile["PARTS"], *taps, channels), dtype=accumulator(x.dtype), device=x.device)
    arguments = {
        "source_ptr": x,
        "grad_ptr": grad,
        "out_ptr": partials,
        "source_image": x.stride(0),
        "grad_image": grad.stride(0),
        "num_tiles": num_tiles,
    }
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("GRAD", grad),
        **window_host.axis_constants(axes),
        "CHANNELS": channels,
        "ACC": window_host.sum_dtype(x.dtype),
        **tile,
    }
    grid = (tile["PARTS"], -(-channels // tile["BLOCK_WIDTH"]), taps[1])
    return Launch(window.window_partials, grid, arguments, constants, warps, made=("out_ptr",))


def window_launch(x, packed, bias, gate, out, axes: tuple[Axis, Axis], scale, config: Config = None) -> Launch:
    """`packed` [Kh,Kw,C] over the windows of `axes` on `x`, into the map `out`."""
    channels, size = x.shape[1], out.shape[2:]
    tile, warps = window_host.block_tile(config, {"BLOCK_GROUPS": 1, **_tile(x.dtype, size, channels, axes[0], config)})
    # taps of a gradient run backwards from one entry of the filter
    start = packed[axes[0].first_tap :, axes[1].first_tap :]
    arguments = {
        "source_ptr": x,
        "weight_ptr": start,
        "bias_ptr": bias,
        "gate_ptr": gate,
        "out_ptr": out,
        "source_image": x.stride(0),
        "weight_image": 0,
        "gate_image": 0 if gate is None else gate.stride(0),
        "out_image": out.stride(0),
    }
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants(axes),
        "GATE_ROW": 0 if gate is None else gate.stride(2),
        "GATE_COL": 0 if gate is None else gate.stride(3),
        "GATED": 0 if gate is None else gate.shape[1],
        "SCALE": float(scale),
        "WEIGHT_ROW": 0,
        "WEIGHT_COL": 0,
        "WEIGHT_TAP_H": packed.stride(0) * axes[0].tap_step,
        "WEIGHT_TAP_W": packed.stride(1) * axes[1].tap_step,
        "WEIGHT_GROUP": 0,
        "WEIGHTS": window.PER_CHANNEL.value,
        "GROUPS": 1,
        "WIDTH": channels,
        "ACC": window_host.sum_dtype(x.dtype),
        **tile,
    }
    tiles = out.shape[0] * -(-size[0] // tile["ROWS"]) * -(-size[1] // tile["BLOCK_COLS"])
    grid = (tiles, -(-channels // tile["BLOCK_WIDTH"]))
    return Launch(window.window_sum, grid, arguments, constants, warps)


def _tile(dtype: torch.dtype, size, channels: int, axis: Axis, config: Config) -> dict[str, int]:
    """Of a program of one warp; of float64 a register has half a value. The second tile has two warps of fewer rows."""
    second = bool(config and config.get("SECOND"))
    rows = window_host.best_rows(size[0], axis, MAX_ROWS if second or dtype == torch.float64 else TALL_ROWS)
    return {"ROWS": rows, **window_host.warp_tile(size[1], channels, 1 + second)}


def more_instructions(x, weight, stride, padding) -> float:
    """Instructions of the second tile over those of the first, both predicted."""
    axes = [forward_axis(k, s, p) for k, s, p in zip(weight.shape[2:], stride, padding, strict=True)]
    size = [(h - a.taps - 2 * a.base) // a.stride + 1 for h, a in zip(x.shape[2:], axes, strict=True)]
    tiles = (_tile(x.dtype, size, x.shape[1], axes[0], config) for config in (TILE, None))
    second, first = (window_host.instructions(size, x.shape[1], axes[0], tile) for tile in tiles)
    return second / first


def _resident(rows: int, axis: Axis) -> int:
    """Programs of the weight's gradient on a multiprocessor, by the registers of each: 64, 80 or 96 were counted."""
    if axis.taps < MANY_TAPS and axis.stride == 1:
        return 30
    return 20 if rows > FEW_ROWS else 25


def _parts(programs: int, places: int) -> int:
    """Into how many parts of so many programs the sum goes: all run at once, or they take three rounds or more."""
    return places // programs or -(-3 * places // programs)


def _packed(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """weight [C,1,Kh,Kw] as [Kh,Kw,C] in the dtype of the sums."""
    packed = torch.empty((*weight.shape[2:], weight.shape[0]), dtype=accumulator(dtype), device=weight.device)
    return packed.copy_(weight[:, 0].permute(1, 2, 0))
