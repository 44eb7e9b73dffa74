"""Involution: each output pixel has its own kernel, shared by the channels of a group.

Paper: Involution, CVPR 2021, https://arxiv.org/abs/2103.06255
y[n,c,h,w] = sum_ij weight[n, c*G//C, i, j, h, w] * x[n, c, h*s + i*d - p, w*s + j*d - p], zero outside the map.
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library, transforms
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.tensors import Pair, channels_inside, pair
from . import aten, reference
from .shapes import OP, SHAPES, TINY, launches

MAX_TAPS, MAX_WIDTH = 32, 4096  # what the gradient of the weights holds in registers
# memory orders of the weights that their gradient keeps: contiguous, taps inside, taps inside and groups innermost
ORDERS = ((0, 1, 2, 3, 4, 5), (0, 4, 5, 1, 2, 3), (0, 4, 5, 3, 2, 1))


def involution(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair = 1,
    padding: Pair | None = None,
    dilation: Pair = 1,
) -> torch.Tensor:
    """x [N,C,H,W], weight [N,G,Kh,Kw,H',W'] -> [N,C,H',W'] in the dtype and memory format of x.

    `padding` None is dilation * (K - 1) / 2: the map keeps its size at stride 1 (odd K only). Half precision is summed
    in float32; under autocast both tensors are cast to its dtype. Derivatives of any order; the second and higher ones
    take the im2col form. Raises ValueError when shapes or dtypes do not fit.
    """
    stride, dilation = pair(stride), pair(dilation)
    same = tuple(d * (k - 1) // 2 for k, d in zip(weight.shape[2:4], dilation, strict=True))
    padding = same if padding is None else pair(padding)
    _check(x, weight, stride, padding, dilation)
    if transforms.wants_plain():
        return reference.product(x, weight, stride, padding, dilation).to(x.dtype)
    if uses_triton(x, weight.shape, stride, weight):
        x = channels_inside(x)  # here, once for all passes; the result stays so
    return _involution(x, weight, stride, padding, dilation)


def problem(x, weight, stride=1, padding=None, dilation=1, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `involution` takes."""
    return _problem(pass_name, x, weight.shape, pair(stride), weight)


def uses_triton(x: torch.Tensor, shape, stride: tuple[int, int], *weight: torch.Tensor) -> bool:
    """Whether Triton runs the forward pass, for weights of this shape."""
    return dispatch.uses_triton(
        OPERATION, x.device, lambda pass_name: _problem(pass_name, x, shape, stride, *weight), ("forward",)
    )


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


def _problem(pass_name, x, shape, stride, *others) -> Problem:
    """`shape` is that of the weights."""
    n, c = x.shape[:2]
    why = unsupported_reason(x, *others)
    if pass_name == "grad_weight" and shape[2] > MAX_TAPS:
        why = why or f"the kernels have {shape[2]} rows: allowed are up to {MAX_TAPS}"
    if pass_name == "grad_weight" and c // shape[1] > MAX_WIDTH:
        why = why or f"a group has {c // shape[1]} channels: allowed are up to {MAX_WIDTH}"
    kernel, size = (int(shape[2]), int(shape[3])), (shape[4], shape[5])
    return Problem(OP, pass_name, x.device, x.dtype, n, c, size, kernel, tuple(stride), why)


def _forward(x, weight, stride, padding, dilation):
    module, options = dispatch.implementation(OPERATION, _problem("forward", x, weight.shape, stride, weight))
    y = module.forward(x, weight, stride, padding, dilation, **options)
    return y.to(x.dtype).contiguous(memory_format=library.memory_format(x))


def _grad_input(grad, weight, size, stride, padding, dilation):
    module, options = dispatch.implementation(OPERATION, _problem("grad_input", grad, weight.shape, stride, weight))
    gx = module.grad_input(grad, weight, size, stride, padding, dilation, **options)
    return gx.to(grad.dtype).contiguous(memory_format=library.memory_format(grad))


def _grad_weight(grad, x, groups, kernel_size, stride, padding, dilation, order):
    out = _empty_weight(x, groups, kernel_size, grad.shape[2:], order)
    module, options = dispatch.implementation(OPERATION, _problem("grad_weight", grad, out.shape, stride, x, out))
    if options:
        return module.grad_weight(grad, x, out, stride, padding, dilation, **options)
    return out.copy_(module.grad_weight(grad, x, groups, kernel_size, stride, padding, dilation))


def _empty_weight(x, groups, kernel_size, size, order) -> torch.Tensor:
    """[N,G,Kh,Kw,H',W'] with its dimensions in memory in `order`."""
    shape = (x.shape[0], groups, *kernel_size, *size)
    return x.new_empty([shape[d] for d in order]).permute([order.index(d) for d in range(6)])


def _order(weight: torch.Tensor) -> tuple[int, ...]:
    return next((order for order in ORDERS if weight.permute(order).is_contiguous()), ORDERS[0])


def _backward(grad, x, weight, needs, stride, padding, dilation):
    # create_graph: the im2col form is made of differentiable operations and carries the next derivatives
    differentiable = torch.is_grad_enabled()
    to_input = reference.grad_input if differentiable else involution_grad_input
    to_weight = reference.grad_weight if differentiable else involution_grad_weight
    geometry = (stride, padding, dilation)
    order = () if differentiable else (_order(weight),)
    gx = to_input(grad, weight, x.shape[2:], *geometry) if needs[0] else None
    gw = to_weight(grad, x, weight.shape[1], weight.shape[2:4], *geometry, *order) if needs[1] else None
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
involution_grad_input = library.register(
    "involution_grad_input(Tensor grad, Tensor weight, SymInt[2] size, int[2] stride, int[2] padding, int[2] dilation)"
    " -> Tensor",
    run=_grad_input,
    fake=lambda grad, weight, size, *geometry: grad.new_empty((*grad.shape[:2], *size)).contiguous(
        memory_format=library.memory_format(grad)
    ),
    flops=_grad_input_flops,
)
involution_grad_weight = library.register(
    "involution_grad_weight(Tensor grad, Tensor x, SymInt groups, SymInt[2] kernel_size, int[2] stride, int[2] padding,"
    " int[2] dilation, int[6] order) -> Tensor",
    run=_grad_weight,
    fake=lambda grad, x, groups, kernel_size, stride, padding, dilation, order: _empty_weight(
        x, groups, kernel_size, grad.shape[2:], order
    ),
    flops=_grad_weight_flops,
)
OPERATION = Operation(
    __name__,
    {_involution: lambda x, *rest: reference.forward(x, *rest).to(x.dtype)},
    problem=problem,
    rule="PyTorch's own forms move 5 times the bytes or more, in more launches",
    forms=aten.FORMS,
    passes=("forward", "grad_input", "grad_weight"),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
