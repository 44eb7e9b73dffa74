"""The convolution in PyTorch's own operations, the affine map folded into its filters: no pass over the result."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}
IN_PLACE = ACTIVATIONS | {"relu": F.relu_, "relu6": partial(F.relu6, inplace=True)}


def forward(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation) -> torch.Tensor:
    """x [N,C,H,W], weight [C',C/g,Kh,Kw], residual [N,C',H',W'], the others [C']; all but x, weight may be None."""
    y = _convolved(x, weight, bias, scale, shift, stride, padding, dilation, groups)
    return ACTIVATIONS[activation](y if residual is None else y + residual.to(y.dtype))


def in_place(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation) -> torch.Tensor:
    """The same, where nobody else sees what comes out of the convolution; not a form of an operation of ours."""
    y = _convolved(x, weight, bias, scale, shift, stride, padding, dilation, groups)
    return IN_PLACE[activation](y if residual is None else y.add_(residual))


def _convolved(x, weight, bias, scale, shift, stride, padding, dilation, groups) -> torch.Tensor:
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
