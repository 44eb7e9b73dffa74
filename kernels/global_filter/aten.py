"""The global filter in PyTorch's own operations, in two forms, whichever is cheaper.

By FFT: forward transform, one complex product, inverse transform. As the circular convolution that this is: a matrix
[HW,HW] per channel, gathered from the filter's impulse response, and one batched product; on small maps that is less
memory traffic than the spectra, on a CPU only where enough images share the matrices.
"""

from __future__ import annotations

import torch

LARGEST = 256  # pixels of a map whose circulant matrices are no larger than what an FFT moves


def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]."""
    return (by_product if prefers_product(x.device.type, x.shape) else by_fft)(x, weight)


def prefers_product(device_type: str, shape: torch.Size) -> bool:
    """Whether circulant matrices pay for a map of `shape` [N,C,H,W].

    On a CPU from an image per six pixels of the map, the border measured from 7x7 to 16x16 with 16 to 240 channels.
    """
    pixels = shape[2] * shape[3]
    return 0 < pixels <= LARGEST and (device_type == "cuda" or 6 * shape[0] >= pixels)


def by_fft(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Arguments and result of `forward`."""
    spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(weight.contiguous())
    return torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")


def by_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Arguments and result of `forward`."""
    n, channels, height, width = x.shape
    response = torch.fft.irfft2(torch.view_as_complex(weight.contiguous()), s=(height, width))
    # matrix[c, (i, j), (h, w)] = response[c, (h - i) mod H, (w - j) mod W]
    rows, columns = (_turned(size, x.device) for size in (height, width))
    at = (rows[:, None, :, None] * width + columns[None, :, None, :]).view(height * width, -1)
    matrices = response.flatten(1).index_select(1, at.flatten()).view(channels, *at.shape)
    y = torch.bmm(x.permute(1, 0, 2, 3).reshape(channels, n, -1), matrices)
    return y.view(channels, n, height, width).permute(1, 0, 2, 3)


def _turned(size: int, device: torch.device) -> torch.Tensor:
    """[i, h] -> (h - i) mod size."""
    places = torch.arange(size, device=device)
    return (places - places[:, None]) % size
