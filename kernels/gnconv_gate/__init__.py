"""One step of the recursive gated convolution.

Paper: HorNet, NeurIPS 2022, https://arxiv.org/abs/2207.14284
y_0 = p * a_0;  y_i = (1x1 convolution of y_{i-1}) * a_i.
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library
from .._core.launch import interpreted, unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import channels_inside
from . import aten, reference
from .shapes import OP, SHAPES, TINY, launches


def gnconv_gate(
    y: torch.Tensor, a: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """y [N,D,H,W], a [N,D',H,W], weight [D',D,1,1], bias [D'] -> (conv1x1(y) * a) [N,D',H,W].

    Without a weight y is taken as it is (D = D'): the first step, one product whatever the provider (depthwise_conv2d
    has it as an epilogue). A polynomial of order n grows fast, so a float16 caller keeps y and a in float32. Raises
    ValueError when shapes do not fit.
    """
    _check(y, a, weight, bias)
    if weight is None:
        return y * a
    provider = dispatch.provider(
        OPERATION,
        y.device,
        lambda pass_name: _problem(pass_name, y, a, weight, bias),
        ("forward",),
        call=(y, a, weight, bias),
    )
    if provider != "triton":
        form = reference if provider == "reference" else aten
        return form.forward(y, a, weight, bias)
    if library.autocasts(y.device.type) and y.dtype != torch.float64:
        y = y.to(torch.get_autocast_dtype(y.device.type))
    return _gate(channels_inside(y), channels_inside(a), weight, bias)


def problem(y, a, weight=None, bias=None, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `gnconv_gate` takes."""
    return _problem(pass_name, y, a, weight, bias)


def _check(y, a, weight, bias) -> None:
    if y.dim() != 4 or a.dim() != 4:
        raise ValueError(f"y has {y.dim()} and a {a.dim()} dimensions: allowed are 4 and 4")
    wider = y.shape[1] if weight is None else weight.shape[0]
    allowed = [y.shape[0], wider, *y.shape[2:]]
    if list(a.shape) != allowed:
        raise ValueError(f"a has shape {list(a.shape)}: allowed is {allowed} for y of {list(y.shape)}")
    if weight is not None and list(weight.shape[1:]) != [y.shape[1], 1, 1]:
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is [D', {y.shape[1]}, 1, 1]")
    if bias is not None and list(bias.shape) != [wider]:
        raise ValueError(f"bias has shape {list(bias.shape)}: allowed is [{wider}]")


def _problem(pass_name, y, a, weight, bias) -> Problem:
    n, channels = a.shape[:2]
    why = unsupported_reason(y, a, weight, bias)
    if y.dtype == torch.float64 and not interpreted():
        why = why or "dtype torch.float64: allowed is float32 or half precision"
    return Problem(OP, pass_name, y.device, y.dtype, n, channels, (a.shape[2], a.shape[3]), unsupported_reason=why)


def _forward(y, a, weight, bias):
    choice = dispatch.decide(OPERATION, _problem("forward", y, a, weight, bias))
    if choice.provider == "triton":
        from . import triton

        out = triton.forward(y, a, weight, bias, choice.config)
    else:
        out = {"aten": _aten_forward, "reference": reference.forward}[choice.provider](y, a, weight, bias)
    return out.contiguous(memory_format=library.memory_format(a))


def _aten_forward(y, a, weight, bias):
    return aten.forward(y, a, weight.to(y.dtype), None if bias is None else bias.to(y.dtype))


def _backward(grad, y, a, weight, bias, needs):
    # made of differentiable operations, this one among them
    gy = ga = gw = gb = None
    inner = (grad * a).to(y.dtype)
    matrix = weight[:, :, 0, 0].to(y.dtype)
    rows = inner.permute(0, 2, 3, 1).flatten(0, 2)
    if needs[0]:
        gy = (rows @ matrix).unflatten(0, (inner.shape[0], *inner.shape[2:])).permute(0, 3, 1, 2)
    if needs[1]:
        ga = _gate(y, channels_inside(grad), weight, bias).to(a.dtype)
    if needs[2]:
        gw = (rows.t() @ y.permute(0, 2, 3, 1).flatten(0, 2)).to(weight.dtype)[:, :, None, None]
    if needs[3]:
        gb = inner.sum((0, 2, 3)).to(bias.dtype)
    return gy, ga, gw, gb


def _fake(y, a, weight, bias):
    dtype = torch.promote_types(y.dtype, a.dtype)
    return a.new_empty(a.shape, dtype=dtype).contiguous(memory_format=library.memory_format(a))


_gate = library.register(
    "gnconv_gate(Tensor y, Tensor a, Tensor weight, Tensor? bias) -> Tensor",
    run=_forward,
    fake=_fake,
    flops=lambda y, a, *_, **__: 2 * y[1] * math.prod(a),
    backward=_backward,
    num_tensors=4,
)
OPERATION = Operation(
    __name__,
    {_gate: _aten_forward},
    problem=problem,
    rivals=rivals(OP, gnconv_gate),
    products=True,
    matrix_kernels=("gated_product",),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
