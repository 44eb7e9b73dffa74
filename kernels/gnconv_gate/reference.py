"""The gating step as a sum over channels."""

from __future__ import annotations

import torch


def forward(y, a, weight, bias):
    """y [N,D,H,W], a [N,D',H,W], weight [D',D,1,1] or None, bias [D'] or None -> [N,D',H,W]."""
    if weight is None:
        return y * a
    mapped = torch.einsum("od,ndhw->nohw", weight[:, :, 0, 0], y)
    return (mapped if bias is None else mapped + bias.view(-1, 1, 1)) * a
