"""Depthwise convolution: one filter per channel, times a scalar, the first channels times a gate.

The window of gnConv (https://arxiv.org/abs/2207.14284) and of inverted residuals (https://arxiv.org/abs/1801.04381).
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import Pair, accumulator, channels_inside, pair
from . import aten, reference
from .shapes import OP, SHAPES, TILE, TINY, launches

MOST_MORE = 1.25  # instructions of a tile over those of the one that takes the fewest, if both are to be measured


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | None = None,
    scale: float = 1.0,
    gate: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [N,C,H,W], weight [C,1,Kh,Kw], bias [C] -> scale * (conv(x, weight) + bias), [N,C,H',W'].

    `gate` [N,D,H',W'] multiplies the first D channels of that. `padding` None is (K - 1) / 2: the map keeps its size at
    stride 1 (odd K only). Under autocast x and gate take its dtype; Triton then reads the weights as they are. Raises
    ValueError when shapes or dtypes do not fit.
    """
    padding = tuple((k - 1) // 2 for k in weight.shape[2:4]) if padding is None else pair(padding)
    stride = pair(stride)
    _check(x, weight, bias, gate, stride, padding)
    passes = ("forward", "grad_input", "grad_weight") if torch.is_grad_enabled() else ("forward",)

    def of(pass_name: str) -> Problem:
        return problem(x, weight, bias, stride, padding, gate=gate, pass_name=pass_name)

    call = (x, weight, bias, stride, padding, scale, gate)
    provider = dispatch.provider(OPERATION, x.device, of, passes, call=call)
    if not dispatch.ours(provider):
        form = reference if provider == "reference" else aten
        return form.depthwise_conv2d(x, weight, bias, gate, stride, padding, scale)
    if library.autocasts(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, gate = x.to(dtype), None if gate is None else gate.to(dtype)
    return _depthwise(channels_inside(x), weight, bias, gate, stride, padding, scale)


def problem(
    x, weight, bias=None, stride: Pair = 1, padding: Pair | None = None, scale=1.0, gate=None, *, pass_name="forward"
) -> Problem:
    """What the choice of a provider for this call depends on; takes what `depthwise_conv2d` takes."""
    stride = pair(stride)
    padding = tuple((k - 1) // 2 for k in weight.shape[2:4]) if padding is None else pair(padding)
    return _problem(pass_name, x, _size(x, weight, stride, padding), weight.shape[2:], stride, (weight, bias, gate))


def _size(x, weight, stride, padding) -> list[int]:
    return [(x.shape[2 + a] + 2 * padding[a] - weight.shape[2 + a]) // stride[a] + 1 for a in (0, 1)]


def _check(x, weight, bias, gate, stride, padding) -> None:
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(f"x has {x.dim()} and weight {weight.dim()} dimensions: allowed are 4 and 4")
    c = x.shape[1]
    if weight.shape[:2] != (c, 1):
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is [{c}, 1, Kh, Kw] for x of {list(x.shape)}")
    size = _size(x, weight, stride, padding)
    if min(size) < 1:
        raise ValueError(f"weight of {list(weight.shape)} is larger than x of {list(x.shape)} padded by {padding}")
    if bias is not None and bias.shape != (c,):
        raise ValueError(f"bias has shape {list(bias.shape)}: allowed is [{c}] for x of {list(x.shape)}")
    if gate is not None and (gate.dim() != 4 or [gate.shape[0], *gate.shape[2:]] != [x.shape[0], *size]):
        allowed = [x.shape[0], "D", *size]
        raise ValueError(f"gate has shape {list(gate.shape)}: allowed is {allowed} for x of {list(x.shape)}")
    if gate is not None and gate.shape[1] > c:
        raise ValueError(f"gate has {gate.shape[1]} channels: allowed are up to the {c} of x")
    given = {"weight": weight, "bias": bias, "gate": gate}
    for name, t in given.items():
        if t is not None and t.dtype != x.dtype and not library.autocasts(x.device.type):
            raise ValueError(f"{name} has dtype {t.dtype}: allowed is that of x, {x.dtype}")


def _problem(pass_name, x, size, kernel, stride, others=()) -> Problem:
    n, c = x.shape[:2]
    kernel = (int(kernel[0]), int(kernel[1]))
    return Problem(
        OP, pass_name, x.device, x.dtype, n, c, tuple(size), kernel, tuple(stride), unsupported_reason(x, *others)
    )


def _second_tile_may_win(x, weight, bias, stride, padding, scale, gate) -> bool:
    """It holds fewer registers, so that more programs run at once: unless it takes many more instructions."""
    from . import triton

    return triton.more_instructions(x, weight, stride, padding) <= MOST_MORE


def _forward(x, weight, bias, gate, stride, padding, scale):
    size = _size(x, weight, stride, padding)
    module, options = dispatch.implementation(
        OPERATION, _problem("forward", x, size, weight.shape[2:], stride, (weight, bias, gate))
    )
    y = module.forward(x, weight, bias, gate, stride, padding, scale, **options)
    return y.contiguous(memory_format=library.memory_format(x))


def _grad_input(grad, weight, size, stride, padding, scale):
    module, options = dispatch.implementation(
        OPERATION, _problem("grad_input", grad, grad.shape[2:], weight.shape[2:], stride, (weight,))
    )
    gx = module.grad_input(grad, weight, size, stride, padding, scale, **options)
    return gx.contiguous(memory_format=library.memory_format(grad))


def _grad_weight(grad, x, kernel_size, stride, padding, scale):
    module, options = dispatch.implementation(
        OPERATION, _problem("grad_weight", grad, grad.shape[2:], kernel_size, stride, (x,))
    )
    gw = module.grad_weight(grad, x, kernel_size, stride, padding, scale, **options)
    return gw.to(accumulator(x.dtype)).contiguous()


def _backward(grad, x, weight, bias, gate, needs, stride, padding, scale):
    if torch.is_grad_enabled():  # create_graph: the taps one by one carry the next derivatives
        tensors = (x, weight, bias, gate)
        return library.composite_backward(reference.depthwise_conv2d, grad, tensors, needs, stride, padding, scale)
    gw = gb = gg = None
    if gate is not None:
        d = gate.shape[1]
        if needs[3]:
            part = None if bias is None else bias[:d]
            ungated = _depthwise(x[:, :d], weight[:d], part, None, stride, padding, scale)
            gg = grad[:, :d] * ungated
        grad = aten.gated(grad, gate)
    gx = _depthwise_grad_input(grad, weight, x.shape[2:], stride, padding, scale) if needs[0] else None
    if needs[1]:
        gw = _depthwise_grad_weight(grad, x, weight.shape[2:], stride, padding, scale).to(weight.dtype)
    if bias is not None and needs[2]:
        gb = (scale * grad.sum((0, 2, 3), dtype=accumulator(grad.dtype))).to(bias.dtype)
    return gx, gw, gb, gg


def _fake_forward(x, weight, bias, gate, stride, padding, scale):
    shape = (*x.shape[:2], *_size(x, weight, stride, padding))
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


def _fake_grad_weight(grad, x, kernel_size, *_):
    return x.new_empty((x.shape[1], 1, *kernel_size), dtype=accumulator(x.dtype))


def _flops(x, weight, *_, out_shape, **__) -> int:
    return 2 * math.prod((*out_shape, *weight[2:]))


def _grad_input_flops(grad, weight, *_, **__) -> int:
    return 2 * math.prod((*grad, *weight[2:]))


def _grad_weight_flops(grad, x, kernel_size, *_, **__) -> int:
    return 2 * math.prod((*grad, *kernel_size))


_depthwise = library.register(
    "depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? gate, int[2] stride, int[2] padding, float scale)"
    " -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=_flops,
    backward=_backward,
    num_tensors=4,
)
_depthwise_grad_input = library.register(
    "depthwise_conv2d_grad_input(Tensor grad, Tensor weight, SymInt[2] size, int[2] stride, int[2] padding,"
    " float scale) -> Tensor",
    run=_grad_input,
    fake=lambda grad, weight, size, *_: grad.new_empty((*grad.shape[:2], *size)).contiguous(
        memory_format=library.memory_format(grad)
    ),
    flops=_grad_input_flops,
)
_depthwise_grad_weight = library.register(
    "depthwise_conv2d_grad_weight(Tensor grad, Tensor x, SymInt[2] kernel_size, int[2] stride, int[2] padding,"
    " float scale) -> Tensor",
    run=_grad_weight,
    fake=_fake_grad_weight,
    flops=_grad_weight_flops,
)
OPERATION = Operation(
    __name__,
    {_depthwise: aten.forward},
    problem=problem,
    rivals=rivals(OP, depthwise_conv2d, may_win=_second_tile_may_win),
    passes=("forward", "grad_input", "grad_weight"),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
    tile=TILE,
)
