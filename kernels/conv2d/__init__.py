"""Convolution with a per-channel affine map and an activation behind it, as inference with folded norms needs it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import dispatch

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """activation(scale * conv(x) + shift), x [N,C,H,W], weight [C',C/groups,Kh,Kw]; bias, scale, shift [C'].

    Raises ValueError for an activation that is not a key of ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: allowed is one of {', '.join(map(repr, ACTIVATIONS))}")
    run = {"aten": _aten, "reference": _reference}[dispatch.choose("conv2d")]
    return ACTIVATIONS[activation](run(x, weight, bias, stride, padding, dilation, groups, scale, shift))


def _aten(x, weight, bias, stride, padding, dilation, groups, scale, shift):
    # the affine map goes into the filter: no pass over the result
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _reference(x, weight, bias, stride, padding, dilation, groups, scale, shift):
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = y if scale is None else y * scale.view(-1, 1, 1)
    return y if shift is None else y + shift.view(-1, 1, 1)
