"""Dynamic convolution in three forms; of the last two the one that is measured as the faster.

static: nothing varies by sample but the scaling of maps; one ordinary convolution.
mixed: the kernels of all samples from one matrix product [N,n] x [n,C'C/g KhKw], then one group per sample.
n-fold: all n shared kernels applied to all samples by one matrix product, then mixed; it reads the weight once where
  the mixed form writes and reads a kernel per sample, at n times the arithmetic: better on small, wide maps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .._core.forms import Forms
from .._core.geometry import out_size
from .._core.transforms import exports, wants_plain
from . import sampled

BORDER = 367  # output pixels times kernels but one: below, a kernel per sample moves more than it saves on a GPU


def odconv2d(
    x, weight, channel, filter, spatial, kernel, stride, padding, dilation, groups, form: str | None = None
) -> torch.Tensor:
    """Factors shaped [N,C,1,1], [N,C',1,1], [N,1,1,1,Kh,Kw], [N,n,1,1,1,1] or None -> [N,C',H',W']."""
    x = x if channel is None else x * channel
    if spatial is None and kernel is None:
        y = F.conv2d(x, weight.sum(0), None, stride, padding, dilation, groups)
    else:
        geometry = (stride, padding, dilation, groups)
        form = "mixed" if form is None and wants_plain() else form
        run = dynamic.forms[form] if form else dynamic
        y = run(x, weight, spatial, kernel, *geometry)
    return y if filter is None else y * filter


def cheaper_form(device_type: str, x_shape, weight_shape, stride, padding, dilation, groups) -> str:
    """n_fold where sharing the weight costs less than a kernel per sample, else mixed.

    One sample has nothing to share, and groups keep to the mixed form. Else the traffic of a kernel per sample stands
    against n - 1 more convolutions: on a GPU it is worth 367 output pixels of arithmetic, whatever the width. On a CPU
    the columns are one more copy of the input per tap, and the measured border is n * pixels = output channels
    (scripts/bench_operators.py).
    """
    num_kernels, out_channels, _, *kernel_size = weight_shape
    if x_shape[0] == 1 or groups > 1:
        return "mixed"
    pixels = math.prod(out_size(x_shape, weight_shape, stride, padding, dilation))
    if device_type == "cuda":
        return "n_fold" if pixels * (num_kernels - 1) <= BORDER else "mixed"
    return "n_fold" if math.prod(kernel_size) > 1 and pixels * num_kernels <= out_channels else "mixed"


def mixed(x, weight, spatial, kernel, stride, padding, dilation, groups) -> torch.Tensor:
    """A kernel per sample, then one group of channels per sample."""
    n = x.shape[0]
    if kernel is None:
        kernels = weight.sum(0).expand(n, *weight.shape[1:])
    else:
        kernels = torch.mm(kernel.flatten(1), weight.flatten(1)).view(n, *weight.shape[1:])
    if spatial is not None:
        kernels = kernels * spatial.squeeze(1)
    if wants_plain() or exports() or n == 0:  # the number of groups is fixed in a compiled graph, and not 0
        return sampled.by_columns(x, kernels, weight.shape[1:], stride, padding, dilation, groups)
    return sampled.forward(x, kernels, stride, padding, dilation, groups)


def n_fold(x, weight, spatial, kernel, stride, padding, dilation, groups) -> torch.Tensor:
    """All kernels on all samples as one matrix product [N H'W', C Kh Kw] x [C Kh Kw, n C']; groups = 1 only."""
    n, num_kernels, out_channels = x.shape[0], weight.shape[0], weight.shape[1]
    out_h, out_w = out_size(x.shape, weight.shape, stride, padding, dilation)
    columns = F.unfold(x, weight.shape[3:], dilation, padding, stride)
    if spatial is not None:
        columns = (
            columns.unflatten(1, (x.shape[1], -1)) * spatial.reshape(n, 1, math.prod(weight.shape[3:]), 1)
        ).flatten(1, 2)
    rows = columns.transpose(1, 2).reshape(n * out_h * out_w, -1)
    y = torch.mm(rows, weight.flatten(2).flatten(0, 1).t()).view(n, out_h * out_w, num_kernels, out_channels)
    y = y.sum(2) if kernel is None else (y * kernel.reshape(n, 1, num_kernels, 1)).sum(2)
    return y.transpose(1, 2).reshape(n, out_channels, out_h, out_w)


def _rule(x, weight, spatial, kernel, *geometry) -> str:
    return cheaper_form(x.device.type, x.shape, weight.shape, *geometry)


def _columns_and_results(x, weight, spatial, kernel, stride, padding, dilation, groups) -> float:
    num_kernels, out_channels, width, *taps = weight.shape
    pixels = x.shape[0] * math.prod(out_size(x.shape, weight.shape, stride, padding, dilation))
    return math.inf if groups > 1 else pixels * (width * math.prod(taps) + num_kernels * out_channels)


dynamic = Forms(
    "odconv2d", {"mixed": mixed, "n_fold": n_fold}, _rule, {"n_fold": _columns_and_results}, differentiated=True
)
FORMS = (dynamic,)
