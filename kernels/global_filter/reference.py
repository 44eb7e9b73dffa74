"""The global filter as the circular convolution it is, summed directly: O((HW)^2), no FFT."""

from __future__ import annotations

import torch


def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]."""
    size = x.shape[2:]
    spatial = torch.fft.irfft2(torch.view_as_complex(weight.contiguous()), s=size)
    height, width = (torch.arange(n, device=x.device) for n in size)
    # circulant[c, h, w, i, j] = spatial[c, (h - i) mod H, (w - j) mod W]
    rows = (height[:, None] - height) % size[0]
    columns = (width[:, None] - width) % size[1]
    circulant = spatial[:, rows[:, None, :, None], columns[None, :, None, :]]
    return torch.einsum("ncij,chwij->nchw", x, circulant)


def grad_weight(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad and x [N,C,H,W] -> gradient of weight [C,H,W//2+1,2]; differentiable by autograd."""
    width = x.shape[3]
    # conj_physical: a kernel called from a compiled graph runs where the lazy conjugate of conj() is lost
    product = torch.fft.rfft2(grad, norm="ortho") * torch.fft.rfft2(x, norm="ortho").conj_physical()
    # a bin between the first and the Nyquist one stands for two bins of the full spectrum
    bins = torch.arange(width // 2 + 1, device=x.device)
    weight = torch.where((bins == 0) | (2 * bins == width), 1.0, 2.0).to(x.dtype)
    return torch.view_as_real(product.sum(0)) * weight[:, None]
