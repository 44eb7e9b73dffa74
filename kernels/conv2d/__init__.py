"""Convolution with an affine map per channel, a sum and an activation behind it: a layer with its norm folded in."""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library
from .._core.geometry import out_size
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.tensors import Pair, channels_inside, pair
from . import aten, reference
from .shapes import OP, SHAPES, TINY, launches

PASSES = ("forward", "activated", "joined")  # alone; with scale, shift or activation; with a residual


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """activation(scale * conv(x) + shift + residual), x [N,C,H,W], weight [C',C/groups,Kh,Kw], the result and residual
    [N,C',H',W']; bias, scale, shift [C'].

    activation: relu, relu6, silu, gelu, sigmoid or None. The result has the dtype of the convolution, whatever that of
    the residual. Raises ValueError for another activation and for shapes that do not fit.
    """
    if activation not in aten.ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: allowed is one of {', '.join(map(repr, aten.ACTIVATIONS))}")
    geometry = (pair(stride), pair(padding), pair(dilation), groups)
    tensors = (x, weight, bias, scale, shift, residual)
    _check(*tensors, *geometry)
    pass_name = _passing(scale, shift, residual, activation)
    provider = dispatch.provider(OPERATION, x.device, lambda _: _problem(x, weight, *geometry, pass_name), (pass_name,))
    if provider != "triton":
        run = reference.forward if provider == "reference" else aten.in_place
        return run(*tensors, *geometry, activation)
    if library.autocasts(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _conv(channels_inside(x), *tensors[1:], *geometry, activation)


def problem(
    x, weight, bias=None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1, scale=None,
    shift=None, activation=None, residual=None, *, pass_name="forward",
) -> Problem:  # fmt: skip
    """What the choice of a provider for this call depends on; takes what `conv2d` takes. No gradient is ours."""
    pass_name = _passing(scale, shift, residual, activation) if pass_name == "forward" else pass_name
    return _problem(x, weight, pair(stride), pair(padding), pair(dilation), groups, pass_name)


def _passing(scale, shift, residual, activation) -> str:
    """With something behind the convolution it is a choice of its own: other forms take a pass for each."""
    if residual is not None:
        return "joined"
    return "forward" if scale is None and shift is None and activation is None else "activated"


def _check(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups) -> None:
    of_x, of_weight = x.shape, weight.shape
    if len(of_x) != 4 or len(of_weight) != 4:
        raise ValueError(f"x has {len(of_x)} and weight {len(of_weight)} dimensions: allowed are 4 and 4")
    c, filters = of_x[1], of_weight[0]
    if groups < 1 or c != of_weight[1] * groups or filters % groups:
        width = f"{c / groups:g}" if groups > 0 else "C / groups"
        allowed = f"[{groups} m, {width}, Kh, Kw] for x of {list(of_x)} and {groups} groups (1 or more)"
        raise ValueError(f"weight has shape {list(of_weight)}: allowed is {allowed}")
    for name, t in (("bias", bias), ("scale", scale), ("shift", shift)):
        if t is not None and t.shape != (filters,):
            raise ValueError(f"{name} has shape {list(t.shape)}: allowed is [{filters}] for weight {list(of_weight)}")
    size = out_size(of_x, of_weight, stride, padding, dilation)
    if size[0] < 1 or size[1] < 1:
        raise ValueError(
            f"weight has shape {list(of_weight)}: its window is larger than x of {list(of_x)} with padding"
        )
    if residual is not None:
        shape = (of_x[0], filters, *size)
        if residual.shape != shape:
            raise ValueError(
                f"residual has shape {list(residual.shape)}: allowed is {list(shape)} for x of {list(x.shape)}"
            )


def _problem(x, weight, stride, padding, dilation, groups, pass_name) -> Problem:
    why = None if pass_name in PASSES else "PyTorch has the gradients"
    kernel, size = (weight.shape[2], weight.shape[3]), out_size(x.shape, weight.shape, stride, padding, dilation)
    why = why or unsupported_reason(x, weight)
    sizes = (x.shape[0], x.shape[1], size, kernel, tuple(stride))
    return Problem(OP, pass_name, x.device, x.dtype, *sizes, why, groups, filters=weight.shape[0])


def _form(x, weight, bias, scale, shift, residual, *options) -> torch.Tensor:
    """Differentiable any number of times; the weight in any dtype."""
    others = [None if t is None else t.to(x.dtype) for t in (weight, bias, scale, shift, residual)]
    return aten.forward(x, *others, *options)


def _forward(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation):
    pass_name = _passing(scale, shift, residual, activation)
    choice = dispatch.decide(OPERATION, _problem(x, weight, stride, padding, dilation, groups, pass_name))
    options = (stride, padding, dilation, groups, activation)
    if choice.provider == "triton":
        from . import triton

        y = triton.forward(x, weight, bias, scale, shift, residual, *options, config=choice.config)
    else:
        y = _form(x, weight, bias, scale, shift, residual, *options)
    return y.contiguous(memory_format=library.memory_format(x))


def _backward(grad, x, weight, bias, scale, shift, residual, needs, stride, padding, dilation, groups, activation):
    if torch.is_grad_enabled() or _passing(scale, shift, residual, activation) != "forward":
        tensors, options = (x, weight, bias, scale, shift, residual), (stride, padding, dilation, groups, activation)
        return library.composite_backward(_form, grad, tensors, needs, *options)
    found = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), None if bias is None else [weight.shape[0]], stride, padding, dilation, False,
        [0, 0], groups, [needs[0], needs[1], bias is not None and needs[2]],
    )  # fmt: skip
    like = (x, weight, bias)
    return (
        *(None if g is None or t is None else g.to(t.dtype) for g, t in zip(found, like, strict=True)),
        None,
        None,
        None,
    )


def _fake_forward(x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation):
    shape = (x.shape[0], weight.shape[0], *out_size(x.shape, weight.shape, stride, padding, dilation))
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


_conv = library.register(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? residual, int[2] stride,"
    " int[2] padding, int[2] dilation, int groups, str? activation) -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=lambda x, weight, *_, out_shape, **__: 2 * math.prod((*out_shape, *weight[1:])),
    backward=_backward,
    num_tensors=6,
)
OPERATION = Operation(
    __name__,
    {_conv: _form},
    problem=problem,
    passes=PASSES,
    products=True,
    matrix_kernels=("convolution_product",),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
