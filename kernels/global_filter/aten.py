"""The global filter by FFT: forward transform, one complex product, inverse transform."""

from __future__ import annotations

import torch


def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]."""
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(weight.contiguous())
    return torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")
