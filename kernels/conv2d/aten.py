"""The convolution in PyTorch's own operations, the affine map folded into its filters, and the rest in place."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    None: lambda x: x,
    "relu": F.relu_,
    "relu6": partial(F.relu6, inplace=True),
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}


def forward(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation) -> torch.Tensor:
    """x [N,C,H,W], weight [C',C/g,Kh,Kw], residual [N,C',H',W'], the others [C']; all but x, weight may be None."""
    if scale is not None:
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return ACTIVATIONS[activation](y if residual is None else y.add_(residual))
