"""Convolution with a per-channel affine map and an activation behind it, as inference with folded norms needs it."""

from __future__ import annotations

import math

import torch

from kernels import dispatch, library
from kernels.conv2d import aten, reference
from kernels.geometry import out_size
from kernels.launch import channels_inside, obstacle

OP = "conv2d"
Pair = int | tuple[int, ...]


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
) -> torch.Tensor:
    """activation(scale * conv(x) + shift), x [N,C,H,W], weight [C',C/groups,Kh,Kw]; bias, scale, shift [C'].

    activation: relu, relu6, silu, gelu, sigmoid or None. Raises ValueError for another one.
    """
    if activation not in aten.ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: allowed is one of {', '.join(map(repr, aten.ACTIVATIONS))}")
    geometry = (_pair(stride), _pair(padding), _pair(dilation), groups)
    tensors = (x, weight, bias, scale, shift)
    if not dispatch.takes_part(OP, x.device, lambda _: _case(x, weight, *geometry), ("forward",)):
        form = reference if dispatch.choose(OP) == "reference" else aten
        return form.forward(*tensors, *geometry, activation)
    if library.autocasts(x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _conv(channels_inside(x), *tensors[1:], *geometry, activation)


def case(
    x, weight, bias=None, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1, scale=None,
    shift=None, activation=None, *, passing="forward",
) -> dispatch.Case:  # fmt: skip
    """What the choice of a provider for this call depends on; takes what `conv2d` takes. Only forward is ours."""
    return _case(x, weight, _pair(stride), _pair(padding), _pair(dilation), groups, passing)


def conv2d_decompositions() -> dict:
    """The registered forward operation -> its form in PyTorch's own."""
    return {_conv: _form}


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _case(x, weight, stride, padding, dilation, groups, passing="forward") -> dispatch.Case:
    why = None if passing == "forward" else "PyTorch has the gradients"
    kernel, size = (weight.shape[2], weight.shape[3]), out_size(x.shape, weight.shape, stride, padding, dilation)
    why = why or obstacle(x, weight)
    return dispatch.Case(
        OP, passing, x.device, x.dtype, x.shape[0], x.shape[1], size, kernel, tuple(stride), why, groups
    )


def _form(x, weight, bias, scale, shift, *options) -> torch.Tensor:
    """Differentiable any number of times; the weight in any dtype."""
    others = [None if t is None else t.to(x.dtype) for t in (weight, bias, scale, shift)]
    return aten.forward(x, *others, *options)


def _forward(x, weight, bias, scale, shift, stride, padding, dilation, groups, activation):
    choice = dispatch.decide(OP, _case(x, weight, stride, padding, dilation, groups))
    if choice.provider == "triton":
        from kernels.conv2d import triton

        options = (stride, padding, dilation, groups, activation)
        y = triton.forward(x, weight, bias, scale, shift, *options, config=choice.config)
    else:
        y = _form(x, weight, bias, scale, shift, stride, padding, dilation, groups, activation)
    return y.contiguous(memory_format=library.memory_format(x))


def _backward(grad, x, weight, bias, scale, shift, needs, stride, padding, dilation, groups, activation):
    if torch.is_grad_enabled() or scale is not None or shift is not None or activation is not None:
        tensors, options = (x, weight, bias, scale, shift), (stride, padding, dilation, groups, activation)
        return library.composite_backward(_form, grad, tensors, needs, *options)
    found = torch.ops.aten.convolution_backward(
        grad, x, weight.to(x.dtype), None if bias is None else [weight.shape[0]], stride, padding, dilation, False,
        [0, 0], groups, [needs[0], needs[1], bias is not None and needs[2]],
    )  # fmt: skip
    like = (x, weight, bias)
    return (*(None if g is None or t is None else g.to(t.dtype) for g, t in zip(found, like, strict=True)), None, None)


def _fake_forward(x, weight, bias, scale, shift, stride, padding, dilation, groups, activation):
    shape = (x.shape[0], weight.shape[0], *out_size(x.shape, weight.shape, stride, padding, dilation))
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


_conv = library.register(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, int[2] stride, int[2] padding,"
    " int[2] dilation, int groups, str? activation) -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=lambda x, weight, *_, out_shape, **__: 2 * math.prod((*out_shape, *weight[1:])),
    backward=_backward,
    num_tensors=5,
)
