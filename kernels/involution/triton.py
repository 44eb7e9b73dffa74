"""Involution by the window kernels: forward, gradient of the input, gradient of the weights. Nothing is im2col'ed.

The weights are read with whatever strides they have. Best is tap order, groups innermost ([N,H',W',Kw,Kh,G] in
memory): one step of a program then reads bytes that lie next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from .._core.geometry import Axis, forward_axis, gradient_axes
from .._core.launch import Launch, power_of_two
from .._core.prepared import start
from .._core.tensors import channels_inside, new_map
from .._triton import window, window_host

Config = Mapping[str, int] | None
BLOCK = 64  # channels per program


def forward(x, weight, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] -> [N,C,H',W'] channels_last."""
    x = channels_inside(x)
    out = new_map(x, x.shape[1], weight.shape[4:])
    if out.numel():
        start(forward_launch, x, weight, out, stride, padding, dilation, config)
    return out


def grad_input(grad, weight, size, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """grad [N,C,H',W'], weight [N,G,Kh,Kw,H',W'] -> gradient of x [N,C,*size], channels_last."""
    grad = channels_inside(grad)
    out = new_map(grad, grad.shape[1], size)
    start(grad_input_launches, grad, weight, out, stride, padding, dilation, config)
    return out


def grad_weight(grad, x, out, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of the weights, written to `out` [N,G,Kh,Kw,H',W'] of any strides."""
    grad, x = channels_inside(grad), channels_inside(x)
    if out.numel():
        start(grad_weight_launch, grad, x, out, stride, padding, dilation, config)
    return out


def forward_launch(x, weight, out, stride, padding, dilation, config: Config = None) -> Launch:
    """The launch that fills `out` [N,C,H',W']."""
    return _sum_launch(x, weight, out, _axes(weight.shape[2:4], stride, padding, dilation), window.AT_OUTPUT, config)


def grad_input_launches(grad, weight, out, stride, padding, dilation, config: Config = None) -> Iterator[Launch]:
    """A launch per phase of the stride that has pixels."""
    options = zip(weight.shape[2:4], stride, padding, dilation, strict=True)
    rows, cols = (gradient_axes(k, s, p, d) for k, s, p, d in options)
    for row in rows:
        for col in cols:
            phase = out[:, :, row.start :: row.jump, col.start :: col.jump]
            if phase.numel():
                yield _sum_launch(grad, weight, phase, (row, col), window.AT_SOURCE, config)


def grad_weight_launch(grad, x, out, stride, padding, dilation, config: Config = None) -> Launch:
    """The launch that fills `out` [N,G,Kh,Kw,H',W'] of any strides."""
    axes = _axes(out.shape[2:4], stride, padding, dilation)
    groups, size = out.shape[1], grad.shape[2:]
    width = x.shape[1] // groups
    block = power_of_two(width)
    together = max(1, min(power_of_two(groups), BLOCK // block))
    cols = window_host.best_cols(size[1], together * block)
    # a sum per row and tap stays in registers
    rows = max(1, min(window_host.best_rows(size[0], axes[0]), 64 // max(1, axes[0].taps)))
    default = {"ROWS": rows, "BLOCK_COLS": cols, "BLOCK_GROUPS": together, "BLOCK_WIDTH": block}
    default["num_warps"] = window_host.warps(cols * together * block)
    tile, warps = window_host.block_tile(config, default)
    arguments = {
        "source_ptr": x,
        "grad_ptr": grad,
        "out_ptr": out,
        "source_image": x.stride(0),
        "grad_image": grad.stride(0),
        "out_image": out.stride(0),
    }
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("GRAD", grad),
        **window_host.axis_constants(axes),
        **_weight_constants("OUT", out, axes),
        "GROUPS": groups,
        "WIDTH": width,
        "ACC": window_host.sum_dtype(x.dtype),
        "TAPS": power_of_two(axes[0].taps),
        **tile,
    }
    tiles = grad.shape[0] * -(-size[0] // tile["ROWS"]) * -(-size[1] // tile["BLOCK_COLS"])
    grid = (tiles, -(-groups // tile["BLOCK_GROUPS"]))
    return Launch(window.window_product, grid, arguments, constants, warps)


def _sum_launch(x, weight, out, axes: tuple[Axis, Axis], weights, config: Config) -> Launch:
    groups, size = weight.shape[1], out.shape[2:]
    width = x.shape[1] // groups
    block = min(BLOCK, power_of_two(width))
    together = max(1, min(power_of_two(groups), BLOCK // block))
    cols = window_host.best_cols(size[1], together * block)
    if weights is window.AT_SOURCE:
        cols = max(cols, min(8, window_host.TILE // (together * block)))  # one warp of 4 columns spills with triton 3.6
    # where columns are few, more groups make up for them
    together = max(1, min(power_of_two(groups), window_host.TILE // (cols * block)))
    rows = window_host.best_rows(size[0], axes[0])
    default = {"ROWS": rows, "BLOCK_COLS": cols, "BLOCK_GROUPS": together, "BLOCK_WIDTH": block}
    default["num_warps"] = window_host.warps(cols * together * block)
    tile, warps = window_host.block_tile(config, default)
    arguments = {
        "source_ptr": x,
        # taps of a gradient run backwards from one entry of the filter
        "weight_ptr": weight[:, :, axes[0].first_tap :, axes[1].first_tap :],
        "bias_ptr": None,
        "gate_ptr": None,
        "out_ptr": out,
        "source_image": x.stride(0),
        "weight_image": weight.stride(0),
        "gate_image": 0,
        "out_image": out.stride(0),
    }
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants(axes),
        **_weight_constants("WEIGHT", weight, axes),
        "GATE_ROW": 0,
        "GATE_COL": 0,
        "GATED": 0,
        "SCALE": 1.0,
        "WEIGHTS": weights.value,
        "GROUPS": groups,
        "WIDTH": width,
        "ACC": window_host.sum_dtype(x.dtype),
        **tile,
    }
    tiles = out.shape[0] * -(-size[0] // tile["ROWS"]) * -(-size[1] // tile["BLOCK_COLS"])
    grid = (tiles, -(-groups // tile["BLOCK_GROUPS"]) * -(-width // tile["BLOCK_WIDTH"]))
    return Launch(window.window_sum, grid, arguments, constants, warps)


def _weight_constants(name: str, weight: torch.Tensor, axes: tuple[Axis, Axis]) -> dict[str, int]:
    _, group, tap_h, tap_w, row, col = weight.stride()
    return {
        f"{name}_GROUP": group,
        f"{name}_TAP_H": tap_h * axes[0].tap_step,
        f"{name}_TAP_W": tap_w * axes[1].tap_step,
        f"{name}_ROW": row,
        f"{name}_COL": col,
    }


def _axes(kernel_size, stride, padding, dilation) -> tuple[Axis, Axis]:
    rows, cols = (forward_axis(*options) for options in zip(kernel_size, stride, padding, dilation, strict=True))
    return rows, cols
