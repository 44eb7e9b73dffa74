"""The global filter as published: forward transform, one complex product, inverse transform."""

from __future__ import annotations

import torch


def forward(x: torch.Tensor, weight: torch.Tensor, _: torch.Tensor | None = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]."""
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(weight.contiguous())
    return torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")


def grad_weight(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad and x [N,C,H,W] -> gradient of weight [C,H,W//2+1,2]; differentiable by autograd."""
    # conj_physical: a kernel called from a compiled graph runs where the lazy conjugate of conj() is lost
    product = torch.fft.rfft2(grad, norm="ortho") * torch.fft.rfft2(x, norm="ortho").conj_physical()
    return torch.view_as_real(product.sum(0)) * multiplicity(x, x.shape[3])


def of_response(response: torch.Tensor) -> torch.Tensor:
    """Gradient of weight [C,H,W//2+1,2] for that of the impulse response [C,H,W]."""
    spectrum = torch.fft.rfft2(response, norm="forward")
    return torch.view_as_real(spectrum) * multiplicity(response, response.shape[2])


def multiplicity(like: torch.Tensor, width: int) -> torch.Tensor:
    """[W//2+1,1]: a bin between the first and the Nyquist one stands for two bins of the full spectrum."""
    bins = torch.arange(width // 2 + 1, device=like.device)
    return torch.where((bins == 0) | (2 * bins == width), 1.0, 2.0).to(like.dtype)[:, None]
