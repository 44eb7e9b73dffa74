"""The gate in PyTorch's own operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def forward(x: torch.Tensor, k3: torch.Tensor, k2: torch.Tensor) -> torch.Tensor:
    """x and k3 [N,C,H,W], k2 [N,C,h,w] -> [N,C,H,W]; differentiable any number of times."""
    return k3 * torch.sigmoid(x + F.interpolate(k2, x.shape[2:], mode="nearest"))


def grads(grad: torch.Tensor, x: torch.Tensor, k3: torch.Tensor, k2: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The gradients of x, k3 and k2, each in its dtype, for that of the result [N,C,H,W]."""
    gate = torch.sigmoid(x + F.interpolate(k2, x.shape[2:], mode="nearest"))
    gated = grad * gate
    inner = gated * k3 * (1 - gate)
    coarse = torch.ops.aten.upsample_nearest2d_backward(inner, list(x.shape[2:]), list(k2.shape))
    return inner.to(x.dtype), gated.to(k3.dtype), coarse.to(k2.dtype)
