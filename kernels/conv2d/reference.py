"""The convolution, then scale, shift, residual and activation as they are written."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .aten import ACTIVATIONS


def forward(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation) -> torch.Tensor:
    """x [N,C,H,W], weight [C',C/g,Kh,Kw], residual [N,C',H',W'], the others [C']; all but x, weight may be None."""
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = y if scale is None else y * scale.view(-1, 1, 1)
    y = y if shift is None else y + shift.view(-1, 1, 1)
    y = y if residual is None else y + residual.to(y.dtype)
    return ACTIVATIONS[activation](y)
