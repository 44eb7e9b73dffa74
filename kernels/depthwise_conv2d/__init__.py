"""Depthwise convolution: one filter per channel, times a scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels import dispatch, library


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """x [N,C,H,W], weight [C,1,Kh,Kw], bias [C] -> scale * (conv(x, weight) + bias), [N,C,H',W'].

    `padding` None is (K - 1) / 2: the map keeps its size at stride 1 (odd K only).
    """
    if padding is None:
        padding = ((weight.shape[2] - 1) // 2, (weight.shape[3] - 1) // 2)
    run = {"aten": _aten, "reference": _reference}[dispatch.choose("depthwise_conv2d")]
    return run(x, weight, bias, stride, padding, scale)


def _aten(x, weight, bias, stride, padding, scale):
    # scaling the filter costs K*K*C products instead of a pass over the map
    if scale != 1.0:
        weight = weight * scale
        bias = None if bias is None else bias * scale
    # on a CPU the gradients are up to 4 times faster so, copy included; in bfloat16 it is the slow layout
    if x.device.type == "cpu" and x.dtype == torch.float32 and not library.autocasts("cpu"):
        x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])


def _reference(x, weight, bias, stride, padding, scale):
    return scale * F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])
