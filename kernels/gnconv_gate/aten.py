"""The gating step by PyTorch's own 1x1 convolution and product."""

from __future__ import annotations

import torch.nn.functional as F


def forward(y, a, weight, bias):
    """y [N,D,H,W], a [N,D',H,W], weight [D',D,1,1] or None, bias [D'] or None -> [N,D',H,W]."""
    return y * a if weight is None else F.conv2d(y, weight, bias) * a
