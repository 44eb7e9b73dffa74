"""Convolution of each sample with kernels of its own, [N,C',C/g,Kh,Kw]: one group of channels per sample."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from .._core.geometry import out_size


def forward(x, weight, stride, padding, dilation, groups) -> torch.Tensor:
    """x [N,C,H,W] -> [N,C',H',W']; differentiable any number of times."""
    y = F.conv2d(_aside(x), weight.flatten(0, 1), None, stride, padding, dilation, groups * x.shape[0])
    return y.view(x.shape[0], -1, *y.shape[2:])


def by_columns(x, weight, shape, stride, padding, dilation, groups) -> torch.Tensor:
    """The same as a product of matrices per sample and group, for any number of samples; `shape` is [C',C/g,Kh,Kw]."""
    n, (filters, width, *kernel_size) = x.shape[0], shape
    size = out_size(x.shape, shape, stride, padding, dilation)
    taps = width * math.prod(kernel_size)
    columns = F.unfold(x, tuple(kernel_size), dilation, padding, stride).reshape(n, groups, taps, size[0] * size[1])
    return (weight.reshape(n, groups, filters // groups, taps) @ columns).reshape(n, filters, *size)


def grad_input(grad, weight, size, stride, padding, dilation, groups) -> torch.Tensor:
    """grad [N,C',H',W'] -> gradient of x [N,C,*size]."""
    n, channels = grad.shape[0], weight.shape[2] * groups
    geometry = (stride, padding, dilation, groups * n)
    found = conv2d_input((1, n * channels, *size), weight.flatten(0, 1), _aside(grad), *geometry)
    return found.view(n, channels, *size)


def grad_weight(grad, x, kernel_size, stride, padding, dilation, groups) -> torch.Tensor:
    """grad [N,C',H',W'], x [N,C,H,W] -> gradient of the weight [N,C',C/g,*kernel_size]."""
    n, filters = grad.shape[:2]
    shape = (n * filters, x.shape[1] // groups, *kernel_size)
    found = conv2d_weight(_aside(x), shape, _aside(grad), stride, padding, dilation, groups * n)
    return found.view(n, filters, *shape[1:])


def _aside(x: torch.Tensor) -> torch.Tensor:
    """The channels of all samples side by side, [1,N*C,H,W]."""
    return x.reshape(1, -1, *x.shape[2:])
