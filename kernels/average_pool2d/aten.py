"""Pooling by PyTorch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def forward(x, window) -> torch.Tensor:
    """x [N,C,H,W] -> [N,C,H//h,W//w]; differentiable any number of times."""
    return F.avg_pool2d(x, tuple(window))


def grad_input(grad, size, window) -> torch.Tensor:
    """grad [N,C,H//h,W//w] -> gradient of x [N,C,*size]."""
    x = grad.new_empty((*grad.shape[:2], *size)).contiguous(memory_format=torch.channels_last)
    return torch.ops.aten.avg_pool2d_backward(grad, x, window, window, (0, 0), False, True, None)
