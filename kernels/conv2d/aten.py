"""The convolution in PyTorch's own operations, the affine map folded into its filters: no pass over the result."""

from __future__ import annotations

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


def forward(x, weight, bias, scale, shift, stride, padding, dilation, groups, activation) -> torch.Tensor:
    """x [N,C,H,W], weight [C',C/g,Kh,Kw], bias, scale, shift [C'] or None -> [N,C',H',W']."""
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return ACTIVATIONS[activation](F.conv2d(x, weight, bias, stride, padding, dilation, groups))
