"""The whole recursion of a gated convolution and the 1x1 convolution behind it: one operation, one pass over pixels.

Paper: HorNet, NeurIPS 2022, https://arxiv.org/abs/2207.14284
y_i = (W_i y_{i-1} + b_i) * a_i for i = 1..n, output W y_n + b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from .._core import dispatch, library
from .._core.launch import interpreted, unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import channels_inside
from ..gnconv_gate import gnconv_gate
from .shapes import OP, SHAPES, TINY, launches

MAX_STEPS = 4  # of order 5, the highest of the paper
MAX_WIDTH = 128  # with 256 channels a program spills registers
PER_STEP = 2  # tensors: weight and bias


def gnconv_recursion(
    y: torch.Tensor,
    a: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    out_weight: torch.Tensor,
    out_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """y [N,D_0,H,W], a [N,D_1+...+D_n,H,W], weights [D_i,D_{i-1},1,1], biases [D_i] -> [N,C',H,W].

    out_weight [C',D_n,1,1], out_bias [C']. In one kernel where a table says so (its pass `training` where a gradient is
    asked for: the backward pass then takes the steps again); elsewhere `gnconv_gate` step by step, then a convolution.
    So too, whatever is forced, for more than MAX_STEPS steps or channels above MAX_WIDTH. All in the dtype of y. Raises
    ValueError for shapes that do not fit.
    """
    _check(y, a, weights, biases, out_weight, out_bias)
    tensors = (y, a, out_weight, out_bias, *(t for pair in zip(weights, biases, strict=True) for t in pair))
    needed = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    pass_name = "training" if needed else "forward"
    # an operation of ours takes the steps again in the backward pass: it must be known that this pays
    if _too_large(weights, out_weight) or not dispatch.uses_triton(
        OPERATION,
        y.device,
        partial(_problem, y=y, a=a, weights=weights, out_weight=out_weight),
        (pass_name,),
        deferred=False,
        call=tensors,
    ):
        return apart(*tensors)
    if library.autocasts(y.device.type) and y.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(y.device.type)
        y, a = y.to(dtype), a.to(dtype)
    absent = (None,) * (PER_STEP * MAX_STEPS + 4 - len(tensors))
    return _recursion(channels_inside(y), channels_inside(a), *tensors[2:], *absent)


def problem(y, a, weights, biases, out_weight, out_bias=None, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `gnconv_recursion` takes."""
    return _problem(pass_name, y, a, weights, out_weight)


def apart(y, a, out_weight, out_bias, *steps) -> torch.Tensor:
    """Step by step, each by the provider chosen for it; steps: weight, bias, weight, bias, ..., the last ones None."""
    taken = 0
    for weight, bias in zip(steps[::PER_STEP], steps[1::PER_STEP], strict=True):
        if weight is not None:
            y = gnconv_gate(y, a[:, taken : taken + weight.shape[0]], weight, bias)
            taken += weight.shape[0]
    return F.conv2d(y, out_weight, out_bias)


def _form(y, *others) -> torch.Tensor:
    """The same with gates and weights of any dtype."""
    return apart(y, *(None if t is None else t.to(y.dtype) for t in others))


def _check(y, a, weights, biases, out_weight, out_bias) -> None:
    if y.dim() != 4 or a.dim() != 4:
        raise ValueError(f"y has {y.dim()} and a {a.dim()} dimensions: allowed are 4 and 4")
    if len(weights) != len(biases):
        raise ValueError(f"{len(biases)} biases: allowed are {len(weights)}, one or None for each weight")
    width = y.shape[1]
    names = [*(f"weights[{i}]" for i in range(len(weights))), "out_weight"]
    for name, weight, bias in zip(names, [*weights, out_weight], [*biases, out_bias], strict=True):
        if weight.dim() != 4 or list(weight.shape[1:]) != [width, 1, 1]:
            before = f"y of {list(y.shape)}" if name == "weights[0]" else "the width before it"
            raise ValueError(f"{name} has shape {list(weight.shape)}: allowed is [D, {width}, 1, 1] for {before}")
        width = weight.shape[0]
        if bias is not None and list(bias.shape) != [width]:
            raise ValueError(f"the bias of {name} has shape {list(bias.shape)}: allowed is [{width}]")
    allowed = [y.shape[0], sum(w.shape[0] for w in weights), *y.shape[2:]]
    if list(a.shape) != allowed:
        raise ValueError(f"a has shape {list(a.shape)}: allowed is {allowed} for y of {list(y.shape)}")


def _too_large(weights, out_weight) -> str | None:
    if not 1 <= len(weights) <= MAX_STEPS:
        return f"{len(weights)} steps: allowed are 1 to {MAX_STEPS}"
    widest = max(out_weight.shape[1], *(w.shape[1] for w in weights))
    return f"a step has {widest} channels: allowed are up to {MAX_WIDTH}" if widest > MAX_WIDTH else None


def _problem(pass_name, y, a, weights, out_weight) -> Problem:
    why = _too_large(weights, out_weight) or unsupported_reason(y, a, *weights, out_weight)
    if y.dtype == torch.float64 and not interpreted():
        why = why or "dtype torch.float64: allowed is float32 or half precision"
    size = (y.shape[2], y.shape[3])
    form = f"{len(weights)} steps"
    return Problem(
        OP, pass_name, y.device, y.dtype, y.shape[0], out_weight.shape[1], size, unsupported_reason=why, form=form
    )


def _forward(y, a, out_weight, out_bias, *steps):
    weights = [w for w in steps[::PER_STEP] if w is not None]
    choices = [dispatch.decide(OPERATION, _problem(p, y, a, weights, out_weight)) for p in ("forward", "training")]
    ours = next((choice for choice in choices if choice.provider == "triton"), None)
    if ours:
        from . import triton

        out = triton.forward(y, a, out_weight, out_bias, steps, ours.config)
    else:
        out = _form(y, a, out_weight, out_bias, *steps)
    return out.contiguous(memory_format=library.memory_format(a))


def _backward(grad, *tensors_and_needs):
    *tensors, needs = tensors_and_needs
    return library.composite_backward(_form, grad, tuple(tensors), needs)


def _fake(y, a, out_weight, *_):
    shape = (y.shape[0], out_weight.shape[0], *y.shape[2:])
    return y.new_empty(shape).contiguous(memory_format=library.memory_format(a))


def _flops(y, a, out_weight, out_bias, *steps, **_) -> int:
    pixels = y[0] * math.prod(y[2:])
    return 2 * pixels * sum(math.prod(w) for w in (out_weight, *steps[::PER_STEP]) if w is not None)


_recursion = library.register(
    "gnconv_recursion(Tensor y, Tensor a, Tensor out_weight, Tensor? out_bias, Tensor weight_1, Tensor? bias_1,"
    " Tensor? weight_2, Tensor? bias_2, Tensor? weight_3, Tensor? bias_3, Tensor? weight_4, Tensor? bias_4) -> Tensor",
    run=_forward,
    fake=_fake,
    flops=_flops,
    backward=_backward,
    num_tensors=4 + PER_STEP * MAX_STEPS,
)


def _from_tensors(y, a, out_weight, out_bias, *steps) -> torch.Tensor:
    return gnconv_recursion(y, a, steps[::PER_STEP], steps[1::PER_STEP], out_weight, out_bias)


OPERATION = Operation(
    __name__,
    {_recursion: _form},
    problem=problem,
    rivals=rivals(OP, _from_tensors),
    passes=("forward", "training"),
    products=True,
    matrix_kernels=("recursive_gates",),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
