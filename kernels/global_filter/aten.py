"""The global filter in PyTorch's own operations, in the form that is measured as the fastest.

fft: as published.
product: as the circular convolution that it is: a matrix [HW,HW] per channel, gathered from the filter's impulse
  response, and one batched product; on small maps that is less memory traffic than the spectra, where enough images
  share the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._core.forms import Forms
from . import reference

PIXELS_OF_IMAGE = (6, 2)  # on a CPU, on a GPU
LARGEST = 256  # pixels of a map whose circulant matrices are no larger than what an FFT moves


def _forward_product(x: torch.Tensor, weight: torch.Tensor, matrices: torch.Tensor | None = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2], same real dtype -> [N,C,H,W]; matrices None or `circulant` of the weight."""
    matrices = circulant(weight, *x.shape[2:]) if matrices is None else matrices
    y = torch.bmm(_by_channel(x), matrices)
    return y.view(x.shape[1], x.shape[0], *x.shape[2:]).permute(1, 0, 2, 3)


def prefers_product(device_type: str, shape: Sequence[int]) -> bool:
    """Whether circulant matrices pay for a map of `shape` [N,C,H,W].

    From an image per so many pixels of the map: on a CPU the border measured from 7x7 to 16x16 with 16 to 240 channels;
    on a GPU that of the bytes moved, as the matrices of one image are 75 MB at 240x14x14 where an FFT moves 1.
    """
    pixels = shape[2] * shape[3]
    return 0 < pixels <= LARGEST and PIXELS_OF_IMAGE[device_type == "cuda"] * shape[0] >= pixels


def circulant(weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """weight [C,H,W//2+1,2] -> [C,HW,HW]: the row of a pixel is what it adds to every pixel."""
    response = torch.fft.irfft2(torch.view_as_complex(weight.contiguous()), s=(height, width))
    # matrix[c, pixel, to] = response[c, to - pixel]
    gathered = response.flatten(1).index_select(1, _apart(height, width, -1, weight.device))
    return gathered.view(-1, height * width, height * width)


def _grad_weight_product(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """grad and x [N,C,H,W] -> gradient of weight [C,H,W//2+1,2]."""
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


def _rule(x: torch.Tensor, *_: torch.Tensor | None) -> str:
    return "product" if prefers_product(x.device.type, x.shape) else "fft"


def _matrices(x: torch.Tensor, *_: torch.Tensor | None) -> int:
    return x.shape[1] * (x.shape[2] * x.shape[3]) ** 2


forward = Forms("global_filter", {"fft": reference.forward, "product": _forward_product}, _rule, {"product": _matrices})
grad_weight = Forms(
    "global_filter_grad_weight",
    {"fft": reference.grad_weight, "product": _grad_weight_product},
    _rule,
    {"product": _matrices},
)
FORMS = (forward, grad_weight)
