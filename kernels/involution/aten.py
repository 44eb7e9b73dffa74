"""Involution in PyTorch's own operations, in the form that is measured as the fastest.

taps: a loop over the taps of the kernel, each one fused multiply-add of a shifted view, without an intermediate of K*K
  times the size. A tap touches only the outputs whose source pixel lies inside the map, so nothing is padded.
padded: forward, the same on a padded map: for a large window or a small map, where finding those outputs takes longer
  than the arithmetic.
unfold: as published, by im2col, which wins on the smallest maps.

Sums are kept in float32 for half precision. Contiguous NCHW is the fast layout; other layouts are copied once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .._core.forms import Forms
from .._core.tensors import wide
from . import reference

MANY_TAPS, SMALL_MAP = 25, 8192  # from which, up to which the map is padded: measured on a CPU, batches 1 to 64


def _forward_taps(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] -> [N,C,H',W'], contiguous, in the dtype sums are kept in."""
    source, kernel = _grouped(x, weight.shape[1]), wide(weight).contiguous()
    out = source.new_zeros((*source.shape[:3], *weight.shape[4:]))
    for i, j, inner, outer in _taps(x.shape[2:], weight.shape[2:], stride, padding, dilation):
        out[outer].addcmul_(source[inner], kernel[:, :, None, i, j][outer])
    return out.flatten(1, 2)


def _forward_padded(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> torch.Tensor:
    """As `_forward_taps`; maps of at least one pixel."""
    source, kernel = _grouped(x, weight.shape[1]), wide(weight).contiguous()
    padded = F.pad(source, (padding[1], padding[1], padding[0], padding[0]))
    *outer, row, column = padded.stride()
    steps = (*outer, dilation[0] * row, dilation[1] * column, stride[0] * row, stride[1] * column)
    windows = padded.as_strided((*padded.shape[:3], *kernel.shape[2:]), steps)
    taps = [tap for rows in windows.unbind(3) for tap in rows.unbind(3)]
    factors = [factor for rows in kernel.unsqueeze(2).unbind(3) for factor in rows.unbind(3)]
    out = taps[0] * factors[0]
    for tap, factor in zip(taps[1:], factors[1:], strict=True):
        out.addcmul_(tap, factor)
    return out.flatten(1, 2)


def _grad_input_taps(grad: torch.Tensor, weight: torch.Tensor, size, stride, padding, dilation) -> torch.Tensor:
    """grad [N,C,H',W'], weight [N,G,Kh,Kw,H',W'] -> gradient of x [N,C,*size]."""
    upstream, kernel = _grouped(grad, weight.shape[1]), wide(weight).contiguous()
    out = upstream.new_zeros((*upstream.shape[:3], *size))
    for i, j, inner, outer in _taps(size, weight.shape[2:], stride, padding, dilation):
        out[inner].addcmul_(upstream[outer], kernel[:, :, None, i, j][outer])
    return out.flatten(1, 2)


def _grad_weight_taps(grad: torch.Tensor, x: torch.Tensor, groups: int, kernel_size, stride, padding, dilation):
    """grad [N,C,H',W'], x [N,C,H,W] -> gradient of weight [N,G,Kh,Kw,H',W'].

    Sums over the channels of a group with all taps of a kernel row at once: the partial sums stay in cache, and no
    product of the size of x is written.
    """
    upstream = _grouped(grad, groups).unsqueeze(3)
    source = F.pad(_grouped(x, groups), (padding[1], padding[1]))
    reach = dilation[1] * (kernel_size[1] - 1) + 1
    # [N,G,C/G,Kw,H,W']: the pixels that each tap of a kernel row meets
    windows = source.unfold(4, reach, stride[1])[..., :: dilation[1]].permute(0, 1, 2, 5, 3, 4)
    out = source.new_zeros((x.shape[0], groups, *kernel_size, *grad.shape[2:]))
    for i in range(kernel_size[0]):
        span = _span(i * dilation[0] - padding[0], stride[0], x.shape[2], grad.shape[2])
        if span:
            inner, outer = span
            row = out[:, :, i, :, outer]
            for c in range(windows.shape[2]):
                row.addcmul_(windows[:, :, c, :, inner], upstream[:, :, c, :, outer])
    return out


def _grouped(t: torch.Tensor, groups: int) -> torch.Tensor:
    return wide(t).contiguous().unflatten(1, (groups, t.shape[1] // groups))


def _taps(size, kernel_shape, stride, padding, dilation) -> Iterator[tuple]:
    """(i, j, index into the input, index into the output) of each tap that meets the map at all."""
    kernel_h, kernel_w, out_h, out_w = kernel_shape
    columns = [_span(j * dilation[1] - padding[1], stride[1], size[1], out_w) for j in range(kernel_w)]
    for i in range(kernel_h):
        row = _span(i * dilation[0] - padding[0], stride[0], size[0], out_h)
        for j, column in enumerate(columns):
            if row and column:
                yield i, j, (..., row[0], column[0]), (..., row[1], column[1])


def _span(offset: int, stride: int, size: int, out_size: int) -> tuple[slice, slice] | None:
    """Input and output slice of the outputs o in [0, out_size) with 0 <= o * stride + offset < size."""
    first = max(0, -(offset // stride))
    last = min(out_size - 1, (size - 1 - offset) // stride)
    if first > last:
        return None
    start = first * stride + offset
    return slice(start, last * stride + offset + 1, stride), slice(first, last + 1)


def _rule(x: Any, weight: Any, *_: Any) -> str:
    padded = x.numel() and (weight.shape[2] * weight.shape[3] >= MANY_TAPS or x.numel() <= SMALL_MAP)
    return "padded" if padded else "taps"


forward = Forms(
    "involution",
    {"taps": _forward_taps, "padded": _forward_padded, "unfold": reference.forward},
    _rule,
    {"unfold": lambda x, weight, *_: x.shape[1] * math.prod(weight.shape) // weight.shape[1]},
)
grad_input = Forms(
    "involution_grad_input",
    {"taps": _grad_input_taps, "unfold": reference.grad_input},
    lambda *_: "taps",
    {"unfold": lambda grad, weight, *_: grad.shape[1] * math.prod(weight.shape) // weight.shape[1]},
)
grad_weight = Forms(
    "involution_grad_weight",
    {"taps": _grad_weight_taps, "unfold": reference.grad_weight},
    lambda *_: "taps",
    {"unfold": lambda grad, x, groups, kernel_size, *_: math.prod((*grad.shape, *kernel_size))},
)
FORMS = (forward, grad_input, grad_weight)
