"""The global filter in PyTorch's own operations, in two forms, whichever is cheaper.

By FFT, as published. As the circular convolution that it is: a matrix [HW,HW] per channel, gathered from the filter's
impulse response, and one batched product; on small maps that is less memory traffic than the spectra, on a CPU only
where enough images share the matrices.
"""

from __future__ import annotations

import torch

from . import reference

LARGEST = 256  # pixels of a map whose circulant matrices are no larger than what an FFT moves


def forward(x: torch.Tensor, weight: torch.Tensor, matrices: torch.Tensor | None = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]; matrices None or `circulant` of the weight."""
    if not prefers_product(x.device.type, x.shape):
        return reference.forward(x, weight)
    matrices = circulant(weight, *x.shape[2:]) if matrices is None else matrices
    y = torch.bmm(_by_channel(x), matrices)
    return y.view(x.shape[1], x.shape[0], *x.shape[2:]).permute(1, 0, 2, 3)


def prefers_product(device_type: str, shape: torch.Size) -> bool:
    """Whether circulant matrices pay for a map of `shape` [N,C,H,W].

    On a CPU from an image per six pixels of the map, the border measured from 7x7 to 16x16 with 16 to 240 channels.
    """
    pixels = shape[2] * shape[3]
    return 0 < pixels <= LARGEST and (device_type == "cuda" or 6 * shape[0] >= pixels)


def circulant(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """weight [C,H,W//2+1,2] -> [C,HW,HW]: the row of a pixel is what it adds to every place."""
    response = torch.fft.irfft2(torch.view_as_complex(weight.contiguous()), s=(height, width))
    # matrix[c, pixel, place] = response[c, place - pixel]
    gathered = response.flatten(1).index_select(1, _apart(height, width, -1, weight.device))
    return gathered.view(-1, height * width, height * width)


def grad_weight(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad and x [N,C,H,W] -> gradient of weight [C,H,W//2+1,2]."""
    if not prefers_product(x.device.type, x.shape):
        return reference.grad_weight(grad, x)
    height, width = x.shape[2:]
    matrices = torch.bmm(_by_channel(x).transpose(1, 2), _by_channel(grad))
    pixels = torch.arange(height * width, device=x.device)[:, None] * (height * width)
    # response[c, shift] = sum over the pixels of matrix[c, pixel, pixel + shift]
    at = pixels + _apart(height, width, 1, x.device).view(height * width, -1)
    response = matrices.flatten(1).index_select(1, at.flatten()).view(-1, *at.shape).sum(1)
    return reference.of_response(response.view(-1, height, width))


def _by_channel(x: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] -> [C,N,HW]."""
    return x.permute(1, 0, 2, 3).reshape(x.shape[1], x.shape[0], -1)


def _apart(height: int, width: int, sign: int, device: torch.device) -> torch.Tensor:
    """For pixel p and q, p the major, flat [HW*HW]: the pixel q + sign * p of a map that has no borders."""
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    rows, columns = (rows + sign * rows[:, None]) % height, (columns + sign * columns[:, None]) % width
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten()
