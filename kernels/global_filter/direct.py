"""The global filter as the circular convolution it is, summed directly: real numbers only, O((HW)^2), no FFT.

For formats without complex numbers.
"""

from __future__ import annotations

import math

import torch

from .reference import multiplicity


def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]."""
    height, width = (torch.arange(n, device=x.device) for n in x.shape[2:])
    spatial = _impulse_response(weight, height, width)
    # circulant[c, h, w, i, j] = spatial[c, (h - i) mod H, (w - j) mod W]
    rows = (height[:, None] - height) % x.shape[2]
    columns = (width[:, None] - width) % x.shape[3]
    circulant = spatial[:, rows[:, None, :, None], columns[None, :, None, :]]
    return torch.einsum("ncij,chwij->nchw", x, circulant)


def _impulse_response(weight: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Inverse transform of weight [C,H,W//2+1,2] to [C,H,W] as a sum of cosines and sines."""
    rows, columns = height.shape[0], width.shape[0]
    turns_h = (height[:, None] * height % rows).to(weight.dtype) / rows
    turns_w = (width[:, None] * width[: columns // 2 + 1] % columns).to(weight.dtype) / columns
    phase = 2 * math.pi * (turns_h[:, :, None, None] + turns_w)
    scaled = weight * (multiplicity(weight, columns) / (rows * columns))
    real = torch.einsum("cuv,huwv->chw", scaled[..., 0], phase.cos())
    return real - torch.einsum("cuv,huwv->chw", scaled[..., 1], phase.sin())
