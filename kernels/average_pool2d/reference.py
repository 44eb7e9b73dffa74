"""The windows as dimensions of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def forward(x, window) -> torch.Tensor:
    """x [N,C,H,W] -> [N,C,H//h,W//w]."""
    rows, columns = (x.shape[2 + a] // window[a] for a in (0, 1))
    whole = x[:, :, : rows * window[0], : columns * window[1]]
    return whole.unflatten(3, (columns, window[1])).unflatten(2, (rows, window[0])).mean((3, 5))


def grad_input(grad, size, window) -> torch.Tensor:
    """grad [N,C,H//h,W//w] -> gradient of x [N,C,*size]."""
    spread = grad.repeat_interleave(window[0], 2).repeat_interleave(window[1], 3) / (window[0] * window[1])
    return F.pad(spread, (0, size[1] - spread.shape[3], 0, size[0] - spread.shape[2]))
