"""Depthwise convolution by PyTorch's own, with the scale in the filter instead of a pass over the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._core import library
from .._core.transforms import wants_plain

_backward = torch.ops.aten.convolution_backward.default


def depthwise_conv2d(x, weight, bias, gate, stride, padding, scale) -> torch.Tensor:
    """As the public function of this folder; made of differentiable operations."""
    if scale != 1.0:
        weight = weight * scale
        bias = None if bias is None else bias * scale
    # on a CPU the gradients are up to 4 times faster so, copy included; in bfloat16 it is the slow layout
    if x.device.type == "cpu" and x.dtype == torch.float32 and not library.autocasts("cpu") and not wants_plain():
        x = x.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])
    if gate is None or torch.is_grad_enabled() or wants_plain():
        return gated(y, gate)
    y[:, : gate.shape[1]] *= gate  # y is ours alone, and nothing will ask for what it was
    return y


def gated(y: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """`y` [N,C,H,W] with its first channels times `gate` [N,D,H,W]."""
    if gate is None:
        return y
    first, rest = y.split((gate.shape[1], y.shape[1] - gate.shape[1]), 1)
    return torch.cat((first * gate, rest), 1)


def forward(x, weight, bias, gate, stride, padding, scale) -> torch.Tensor:
    """`weight` and `bias` may be wider than `x`, as under autocast."""
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    return depthwise_conv2d(x, weight, bias, gate, stride, padding, scale)


def grad_input(grad, weight, size, stride, padding, scale) -> torch.Tensor:
    """grad [N,C,H',W'], weight [C,1,Kh,Kw] -> gradient of x [N,C,*size]."""
    channels, shape = grad.shape[1], (*grad.shape[:2], *size)
    # never read: its layout decides which library runs
    x = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=library.memory_format(grad))
    weight = (weight * scale).to(grad.dtype)
    mask = [True, False, False]
    return _backward(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), channels, mask)[0]


def grad_weight(grad, x, kernel_size, stride, padding, scale) -> torch.Tensor:
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of the weight [C,1,*kernel_size]."""
    channels = grad.shape[1]
    weight = grad.new_empty(1).expand(channels, 1, *kernel_size)
    mask = [False, True, False]
    return scale * _backward(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), channels, mask)[1]
