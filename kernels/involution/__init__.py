"""Involution: each output pixel has its own kernel, shared by the channels of a group.

Paper: Involution, CVPR 2021, https://arxiv.org/abs/2103.06255
y[n,c,h,w] = sum_ij weight[n, c*G//C, i, j, h, w] * x[n, c, h*s + i*d - p, w*s + j*d - p], zero outside the map.
"""

from __future__ import annotations

import math

import torch

from kernels import dispatch, library
from kernels.involution import aten, reference


def involution(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | None = None,
    dilation: int | tuple[int, ...] = 1,
) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] -> [N,C,H',W'] in the dtype and memory format of x.

    `padding` None is dilation * (K - 1) / 2: the map keeps its size at stride 1 (odd K only). Half precision is summed
    in float32; under autocast both tensors are cast to its dtype. Derivatives of any order; the second and higher ones
    take the im2col form. Raises ValueError when shapes or dtypes do not fit.
    """
    stride, dilation = _pair(stride), _pair(dilation)
    same = tuple(d * (k - 1) // 2 for k, d in zip(weight.shape[2:4], dilation, strict=True))
    padding = same if padding is None else _pair(padding)
    _check(x, weight, stride, padding, dilation)
    return _involution(x, weight, stride, padding, dilation)


def involution_decompositions() -> dict:
    """The registered forward operation -> its im2col form."""
    return {_involution: lambda x, *rest: reference.forward(x, *rest).to(x.dtype)}


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(x, weight, stride, padding, dilation) -> None:
    if x.dim() != 4 or weight.dim() != 6:
        raise ValueError(f"x has {x.dim()} and weight {weight.dim()} dimensions: allowed are 4 and 6")
    n, c, *size = x.shape
    out = [(size[a] + 2 * padding[a] - dilation[a] * (weight.shape[2 + a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    if weight.shape[0] != n or list(weight.shape[4:]) != out:
        allowed = f"[{n}, G, Kh, Kw, {out[0]}, {out[1]}]"
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is {allowed} for x of {list(x.shape)}")
    if c % weight.shape[1]:
        raise ValueError(f"weight has {weight.shape[1]} groups: allowed is a divisor of the {c} channels of x")
    if x.dtype != weight.dtype and not library.autocasts(x.device.type):
        raise ValueError(f"weight has dtype {weight.dtype}: allowed is that of x, {x.dtype}")


def _provider():
    return {"aten": aten, "reference": reference}[dispatch.choose("involution")]


def _forward(x, weight, stride, padding, dilation):
    y = _provider().forward(x, weight, stride, padding, dilation)
    return y.to(x.dtype).contiguous(memory_format=library.memory_format(x))


def _grad_input(grad, weight, size, stride, padding, dilation):
    gx = _provider().grad_input(grad, weight, size, stride, padding, dilation)
    return gx.to(grad.dtype).contiguous(memory_format=library.memory_format(grad))


def _grad_weight(grad, x, groups, kernel_size, stride, padding, dilation):
    return _provider().grad_weight(grad, x, groups, kernel_size, stride, padding, dilation).to(x.dtype).contiguous()


def _backward(grad, x, weight, needs, stride, padding, dilation):
    # create_graph: the im2col form is made of differentiable operations and carries the next derivatives
    differentiable = torch.is_grad_enabled()
    to_input = reference.grad_input if differentiable else _involution_grad_input
    to_weight = reference.grad_weight if differentiable else _involution_grad_weight
    geometry = (stride, padding, dilation)
    gx = to_input(grad, weight, x.shape[2:], *geometry) if needs[0] else None
    gw = to_weight(grad, x, weight.shape[1], weight.shape[2:4], *geometry) if needs[1] else None
    return gx, gw


def _forward_flops(x, weight, *geometry, **out) -> int:
    return 2 * math.prod((*x[:2], *weight[2:]))


def _grad_input_flops(grad, weight, *geometry, **out) -> int:
    return 2 * math.prod((*grad[:2], *weight[2:]))


def _grad_weight_flops(grad, x, groups, kernel_size, *geometry, **out) -> int:
    return 2 * math.prod((*grad, *kernel_size))


_involution = library.register(
    "involution(Tensor x, Tensor weight, int[2] stride, int[2] padding, int[2] dilation) -> Tensor",
    run=_forward,
    fake=lambda x, weight, *geometry: x.new_empty((*x.shape[:2], *weight.shape[4:])).contiguous(
        memory_format=library.memory_format(x)
    ),
    flops=_forward_flops,
    backward=_backward,
)
library.register_autocast(_involution, "involution")
_involution_grad_input = library.register(
    "involution_grad_input(Tensor grad, Tensor weight, SymInt[2] size, int[2] stride, int[2] padding, int[2] dilation)"
    " -> Tensor",
    run=_grad_input,
    fake=lambda grad, weight, size, *geometry: grad.new_empty((*grad.shape[:2], *size)).contiguous(
        memory_format=library.memory_format(grad)
    ),
    flops=_grad_input_flops,
)
_involution_grad_weight = library.register(
    "involution_grad_weight(Tensor grad, Tensor x, SymInt groups, SymInt[2] kernel_size, int[2] stride, int[2] padding,"
    " int[2] dilation) -> Tensor",
    run=_grad_weight,
    fake=lambda grad, x, groups, kernel_size, *geometry: x.new_empty(
        (x.shape[0], groups, *kernel_size, *grad.shape[2:])
    ),
    flops=_grad_weight_flops,
)
