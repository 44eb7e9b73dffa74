"""Involution by im2col: short, correct, and K*K times the memory of its input.

Each function is made of differentiable operations, so that together they carry derivatives of any order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._core.tensors import wide


def forward(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] -> [N,C,H',W']."""
    y = (_columns(x, weight.shape[1:], stride, padding, dilation) * _shared(weight)).sum(3)
    return y.reshape(*x.shape[:2], *weight.shape[4:])


def product(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> torch.Tensor:
    """The same as a product of matrices per pixel, which exporters keep and counters of FLOPs count."""
    columns = _columns(x, weight.shape[1:], stride, padding, dilation)
    y = torch.einsum("ngckp,ngkp->ngcp", columns, wide(weight).flatten(4, 5).flatten(2, 3))
    return y.reshape(*x.shape[:2], *weight.shape[4:])


def grad_input(grad: torch.Tensor, weight: torch.Tensor, size, stride, padding, dilation) -> torch.Tensor:
    """grad [N,C,H',W'], weight [N,G,Kh,Kw,H',W'] -> gradient of x [N,C,*size]."""
    n, c = grad.shape[:2]
    groups, kernel_h, kernel_w = weight.shape[1:4]
    upstream = wide(grad).reshape(n, groups, c // groups, 1, -1)
    columns = (upstream * _shared(weight)).reshape(n, c * kernel_h * kernel_w, -1)
    return F.fold(columns, tuple(size), (kernel_h, kernel_w), dilation, padding, stride)


def grad_weight(grad: torch.Tensor, x: torch.Tensor, groups: int, kernel_size, stride, padding, dilation):
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of weight [N,G,Kh,Kw,H',W']."""
    shape = (groups, *kernel_size, *grad.shape[2:])
    upstream = wide(grad).reshape(x.shape[0], groups, -1, 1, grad.shape[2] * grad.shape[3])
    return (upstream * _columns(x, shape, stride, padding, dilation)).sum(2).reshape(x.shape[0], *shape)


def _columns(x: torch.Tensor, shape, stride, padding, dilation) -> torch.Tensor:
    groups, kernel_h, kernel_w, out_h, out_w = shape
    columns = F.unfold(wide(x), (kernel_h, kernel_w), dilation, padding, stride)
    return columns.view(x.shape[0], groups, x.shape[1] // groups, kernel_h * kernel_w, out_h * out_w)


def _shared(weight: torch.Tensor) -> torch.Tensor:
    return wide(weight).flatten(4, 5).flatten(2, 3).unsqueeze(2)
