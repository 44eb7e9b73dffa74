"""Gate of the self-calibrated convolution.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020.
y = k3 * sigmoid(x + up(k2)), up = nearest neighbour to the size of x.
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import channels_inside
from . import aten, reference
from .shapes import OP, SHAPES, TINY, launches


def self_calibrated_gate(x: torch.Tensor, k3: torch.Tensor, k2: torch.Tensor) -> torch.Tensor:
    """x and k3 [N,C,H,W], k2 [N,C,h,w] with h <= H, w <= W -> [N,C,H,W], in the widest dtype of the three.

    Raises ValueError when shapes do not fit.
    """
    _check(x, k3, k2)
    provider = dispatch.provider(
        OPERATION,
        x.device,
        lambda pass_name: _problem(pass_name, x, k3, k2),
        ("forward", "grad_input"),
        call=(x, k3, k2),
    )
    if provider != "triton":
        form = reference if provider == "reference" else aten
        return form.forward(x, k3, k2)
    return _gate(channels_inside(x), channels_inside(k3), channels_inside(k2))


def problem(x, k3, k2, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `self_calibrated_gate` takes."""
    return _problem(pass_name, x, k3, k2)


def _check(x, k3, k2) -> None:
    if not x.dim() == k3.dim() == k2.dim() == 4:
        raise ValueError(f"x has {x.dim()}, k3 {k3.dim()} and k2 {k2.dim()} dimensions: allowed are 4, 4 and 4")
    if k3.shape != x.shape:
        raise ValueError(f"k3 has shape {list(k3.shape)}: allowed is that of x, {list(x.shape)}")
    (n, c, height, width), (h, w) = x.shape, k2.shape[2:]
    if k2.shape[:2] != x.shape[:2] or not (1 <= h <= height and 1 <= w <= width):
        allowed = f"[{n}, {c}, up to {height}, up to {width}]"
        raise ValueError(f"k2 has shape {list(k2.shape)}: allowed is {allowed} for x of {list(x.shape)}")


def _problem(pass_name, x, k3, k2, grad=None) -> Problem:
    n, c, height, width = x.shape
    return Problem(
        OP, pass_name, x.device, x.dtype, n, c, (height, width), unsupported_reason=unsupported_reason(x, k3, k2, grad)
    )


def _forward(x, k3, k2):
    module, options = dispatch.implementation(OPERATION, _problem("forward", x, k3, k2))
    return module.forward(x, k3, k2, **options).contiguous(memory_format=library.memory_format(x))


def _grads(grad, x, k3, k2):
    module, options = dispatch.implementation(OPERATION, _problem("grad_input", x, k3, k2, grad))
    found = module.grads(grad, x, k3, k2, **options)
    formats = [library.memory_format(t) for t in (x, k3, k2)]
    return tuple(g.contiguous(memory_format=kind) for g, kind in zip(found, formats, strict=True))


def _backward(grad, x, k3, k2, needs):
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(aten.forward, grad, (x, k3, k2), needs)
    return [found if need else None for found, need in zip(_gate_grads(grad, x, k3, k2), needs, strict=True)]


def _fake_forward(x, k3, k2):
    dtype = torch.promote_types(torch.promote_types(x.dtype, k3.dtype), k2.dtype)
    return x.new_empty(x.shape, dtype=dtype).contiguous(memory_format=library.memory_format(x))


def _fake_grads(grad, x, k3, k2):
    return tuple(t.new_empty(t.shape).contiguous(memory_format=library.memory_format(t)) for t in (x, k3, k2))


_gate = library.register(
    "self_calibrated_gate(Tensor x, Tensor k3, Tensor k2) -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=lambda x, *_, **__: 3 * math.prod(x),
    backward=_backward,
    num_tensors=3,
)
_gate_grads = library.register(
    "self_calibrated_gate_grads(Tensor grad, Tensor x, Tensor k3, Tensor k2) -> (Tensor, Tensor, Tensor)",
    run=_grads,
    fake=_fake_grads,
    flops=lambda grad, *_, **__: 8 * math.prod(grad),
)
OPERATION = Operation(
    __name__,
    {_gate: aten.forward},
    problem=problem,
    rivals=rivals(OP, self_calibrated_gate, autocasts=False),
    passes=("forward", "grad_input"),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
