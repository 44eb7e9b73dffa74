"""Involution with the 1x1 convolution that spans its kernels: one operation, so that the kernels need not be stored.

Paper: Involution, CVPR 2021, https://arxiv.org/abs/2103.06255
y = involution(x, weight * features + bias), the rows of weight in the order group, kernel row, kernel column.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F

from .._core import dispatch, library
from .._core.geometry import out_size
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.tensors import Pair, channels_inside, pair
from ..involution import involution, involution_grad_input, involution_grad_weight
from ..involution import reference as involution_reference
from ..involution import uses_triton as involution_uses_triton
from .shapes import OP, SHAPES, TINY, launches

MAX_FEATURES = 128  # of a pixel, up to which the fused kernel spills no registers


def spanned_involution(
    x: torch.Tensor,
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair | None = None,
    dilation: Pair = 1,
) -> torch.Tensor:
    """x [N,C,H,W], features [N,D,H',W'], weight [G*Kh*Kw,D,1,1], bias [G*Kh*Kw] -> [N,C,H',W'].

    Fused where a table says so (its pass `training` where a gradient is asked for): then the kernels are never stored
    for the backward pass, which spans them again. Elsewhere a convolution and an involution, and where Triton runs that
    the kernels come out of the convolution in the order in which it reads them. So too, whatever is forced, for more
    than MAX_FEATURES features. Raises ValueError for shapes that do not fit.
    """
    kernel_size, stride, dilation = pair(kernel_size), pair(stride), pair(dilation)
    same = (dilation[0] * (kernel_size[0] - 1) // 2, dilation[1] * (kernel_size[1] - 1) // 2)
    padding = same if padding is None else pair(padding)
    geometry = (kernel_size, stride, padding, dilation)
    _check(x, features, weight, bias, *geometry)
    needed = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, features, weight, bias))
    pass_name = "training" if needed else "forward"
    of = partial(_problem, x=x, features=features, weight=weight, bias=bias, kernel_size=kernel_size, stride=stride)
    # an operation of ours spans its kernels again in the backward pass: it must be known that this pays
    if features.shape[1] > MAX_FEATURES or not dispatch.uses_triton(
        OPERATION, x.device, of, (pass_name,), deferred=False
    ):
        return apart(x, features, weight, bias, *geometry)
    if library.autocasts(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, features = x.to(dtype), features.to(dtype)
    return _spanned(channels_inside(x), channels_inside(features), weight, bias, *geometry)


def problem(
    x, features, weight, bias=None, kernel_size: Pair = 3, stride: Pair = 1, padding=None, dilation=1, *,
    pass_name="forward",
) -> Problem:  # fmt: skip
    """What the choice of a provider for this call depends on; takes what `spanned_involution` takes."""
    return _problem(pass_name, x, features, weight, bias, pair(kernel_size), pair(stride))


def tap_order(weight: torch.Tensor, kernel_size: tuple[int, int]) -> torch.Tensor:
    """Rows (group, kernel row, kernel column) of a weight or bias as (kernel column, kernel row, group)."""
    return weight.unflatten(0, (-1, *kernel_size)).transpose(0, 2).flatten(0, 2)


def _check(x, features, weight, bias, kernel_size, stride, padding, dilation) -> None:
    if x.dim() != 4 or features.dim() != 4 or weight.dim() != 4:
        found = f"x has {x.dim()}, features {features.dim()} and weight {weight.dim()} dimensions"
        raise ValueError(f"{found}: allowed are 4, 4 and 4")
    size = out_size(x.shape, kernel_size, stride, padding, dilation)
    if (features.shape[0], *features.shape[2:]) != (x.shape[0], *size):
        allowed = f"[{x.shape[0]}, D, {size[0]}, {size[1]}]"
        raise ValueError(f"features has shape {list(features.shape)}: allowed is {allowed} for x of {list(x.shape)}")
    taps = math.prod(kernel_size)
    if weight.shape[0] % taps or list(weight.shape[1:]) != [features.shape[1], 1, 1]:
        allowed = f"[G*{taps}, {features.shape[1]}, 1, 1]"
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is {allowed} for features of "
                         f"{list(features.shape)}")  # fmt: skip
    if bias is not None and list(bias.shape) != [weight.shape[0]]:
        raise ValueError(f"bias has shape {list(bias.shape)}: allowed is [{weight.shape[0]}]")
    if x.shape[1] % (weight.shape[0] // taps):
        raise ValueError(f"weight has {weight.shape[0] // taps} groups: allowed is a divisor of the {x.shape[1]} of x")


def _problem(pass_name, x, features, weight, bias, kernel_size, stride) -> Problem:
    why = unsupported_reason(x, features, weight, bias)
    if features.shape[1] > MAX_FEATURES:
        why = why or f"features have {features.shape[1]} channels: allowed are up to {MAX_FEATURES}"
    size = (features.shape[2], features.shape[3])
    return Problem(OP, pass_name, x.device, x.dtype, x.shape[0], x.shape[1], size, kernel_size, stride, why)


def _spans(features, weight, bias, kernel_size, by_taps: bool) -> torch.Tensor:
    """[N,G,Kh,Kw,H',W'], where `by_taps` in the memory order that the window kernels read."""
    if not by_taps:
        return F.conv2d(features, weight, bias).unflatten(1, (-1, *kernel_size))
    bias = None if bias is None else tap_order(bias, kernel_size)
    spans = F.conv2d(features, tap_order(weight, kernel_size), bias)
    return spans.unflatten(1, (*kernel_size[::-1], -1)).transpose(1, 3)


def apart(x, features, weight, bias, kernel_size, stride, padding, dilation) -> torch.Tensor:
    """Convolution, then involution, each by the provider chosen for it; options as pairs."""
    groups = weight.shape[0] // math.prod(kernel_size)
    shape = (x.shape[0], groups, *kernel_size, *features.shape[2:])
    by_taps = involution_uses_triton(x, shape, stride)
    return involution(x, _spans(features, weight, bias, kernel_size, by_taps), stride, padding, dilation)


def _form(x, features, weight, bias, kernel_size, *geometry) -> torch.Tensor:
    """Differentiable any number of times."""
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    spans = _spans(features, weight, bias, kernel_size, False)
    return involution_reference.forward(x, spans, *geometry).to(x.dtype)


def _forward(x, features, weight, bias, kernel_size, stride, padding, dilation):
    geometry, sizes = (stride, padding, dilation), (tuple(kernel_size), tuple(stride))
    choices = [
        dispatch.decide(OPERATION, _problem(p, x, features, weight, bias, *sizes)) for p in ("forward", "training")
    ]
    fused = next((choice for choice in choices if choice.provider == "triton"), None)
    if fused:
        from . import triton

        y = triton.forward(x, features, weight, bias, kernel_size, *geometry, fused.config)
    elif choices[0].provider == "reference":
        y = _form(x, features, weight, bias, kernel_size, *geometry)
    else:
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        y = apart(x, features, weight, bias, kernel_size, *geometry)
    return y.contiguous(memory_format=library.memory_format(x))


def _backward(grad, x, features, weight, bias, needs, kernel_size, stride, padding, dilation):
    geometry = (stride, padding, dilation)
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(_form, grad, (x, features, weight, bias), needs, kernel_size, *geometry)
    rows = tap_order(weight, kernel_size).to(x.dtype)
    rows_bias = None if bias is None else tap_order(bias, kernel_size).to(x.dtype)
    groups = weight.shape[0] // math.prod(kernel_size)
    gx = None
    if needs[0]:
        spans = F.conv2d(features, rows, rows_bias).unflatten(1, (*kernel_size[::-1], groups)).transpose(1, 3)
        gx = involution_grad_input(grad, spans, x.shape[2:], *geometry)
        del spans
    if not any(needs[1:]):
        return gx, None, None, None
    by_taps = [0, 4, 5, 3, 2, 1]
    gk = involution_grad_weight(grad, x, groups, kernel_size, *geometry, by_taps).transpose(1, 3).flatten(1, 3)
    mask = [needs[1], needs[2], bias is not None and needs[3]]
    gf, gw, gb = torch.ops.aten.convolution_backward(
        gk, features, rows, [rows.shape[0]], (1, 1), (0, 0), (1, 1), False, (0, 0), 1, mask
    )
    back = tuple(reversed(kernel_size))
    gw = None if gw is None else gw.unflatten(0, (*back, groups)).transpose(0, 2).flatten(0, 2).to(weight.dtype)
    gb = None if gb is None or bias is None else gb.view(*back, groups).transpose(0, 2).flatten().to(bias.dtype)
    return gx, gf, gw, gb


def _flops(x, features, weight, bias, kernel_size, *_, **__) -> int:
    pixels = features[0] * math.prod(features[2:])
    return 2 * pixels * (weight[0] * weight[1] + x[1] * math.prod(kernel_size))


_spanned = library.register(
    "spanned_involution(Tensor x, Tensor features, Tensor weight, Tensor? bias, int[2] kernel_size, int[2] stride,"
    " int[2] padding, int[2] dilation) -> Tensor",
    run=_forward,
    fake=lambda x, features, *_: x.new_empty((*x.shape[:2], *features.shape[2:])).contiguous(
        memory_format=library.memory_format(x)
    ),
    flops=_flops,
    backward=_backward,
    num_tensors=4,
)
OPERATION = Operation(
    __name__,
    {_spanned: _form},
    problem=problem,
    passes=("forward", "training"),
    matrix_kernels=("spanned_window_sum",),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
