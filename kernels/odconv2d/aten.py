"""Dynamic convolution in three forms, whichever is cheapest.

static: nothing varies by sample but the scaling of maps; one ordinary convolution.
mixed: the kernels of all samples from one matrix product [N,n] x [n,C'C/g KhKw], then one group per sample.
n-fold: all n shared kernels applied to all samples by one matrix product, then mixed; it reads the weight once where
  the mixed form writes and reads a kernel per sample, at n times the arithmetic: better on small maps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def odconv2d(x, weight, channel, filter, spatial, kernel, stride, padding, dilation, groups) -> torch.Tensor:
    """Factors shaped [N,C,1,1], [N,C',1,1], [N,1,1,1,Kh,Kw], [N,n,1,1,1,1] or None -> [N,C',H',W']."""
    x = x if channel is None else x * channel
    if spatial is None and kernel is None:
        y = F.conv2d(x, weight.sum(0), None, stride, padding, dilation, groups)
    else:
        run = _n_fold if prefers_n_fold(x.shape, weight.shape, stride, padding, dilation, groups) else _mixed
        y = run(x, weight, spatial, kernel, stride, padding, dilation, groups)
    return y if filter is None else y * filter


def prefers_n_fold(x_shape, weight_shape, stride, padding, dilation, groups) -> bool:
    """Whether sharing the weight costs less than a kernel per sample.

    One sample has nothing to share and groups keep to the mixed form. Moving a kernel to and from memory costs as
    much as about 367 output pixels of arithmetic, against the n - 1 additional convolutions.
    """
    num_kernels = weight_shape[0]
    if x_shape[0] == 1 or groups > 1:
        return False
    return math.prod(_out_size(x_shape, weight_shape, stride, padding, dilation)) * (num_kernels - 1) <= 367


def _mixed(x, weight, spatial, kernel, stride, padding, dilation, groups):
    n = len(x)
    if kernel is None:
        mixed = weight.sum(0).expand(n, *weight.shape[1:])
    else:
        mixed = torch.mm(kernel.flatten(1), weight.flatten(1)).view(n, *weight.shape[1:])
    if spatial is not None:
        mixed = mixed * spatial.squeeze(1)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), mixed.flatten(0, 1), None, stride, padding, dilation, groups * n)
    return y.view(n, -1, *y.shape[2:])


def _n_fold(x, weight, spatial, kernel, stride, padding, dilation, groups):
    n, num_kernels, out_channels = len(x), weight.shape[0], weight.shape[1]
    out_h, out_w = _out_size(x.shape, weight.shape, stride, padding, dilation)
    columns = F.unfold(x, weight.shape[3:], dilation, padding, stride)
    if spatial is not None:
        columns = (columns.unflatten(1, (x.shape[1], -1)) * spatial.reshape(n, 1, -1, 1)).flatten(1, 2)
    rows = columns.transpose(1, 2).reshape(n * out_h * out_w, -1)
    y = torch.mm(rows, weight.flatten(2).flatten(0, 1).t()).view(n, out_h * out_w, num_kernels, out_channels)
    y = y.sum(2) if kernel is None else (y * kernel.reshape(n, 1, -1, 1)).sum(2)
    return y.transpose(1, 2).reshape(n, out_channels, out_h, out_w)


def _out_size(x_shape, weight_shape, stride, padding, dilation) -> list[int]:
    return [
        (x_shape[2 + a] + 2 * padding[a] - dilation[a] * (weight_shape[3 + a] - 1) - 1) // stride[a] + 1 for a in (0, 1)
    ]
