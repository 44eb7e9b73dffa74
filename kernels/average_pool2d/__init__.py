"""Average pooling without overlap: what the self-calibrated convolution looks at from afar.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020.
"""

from __future__ import annotations

import torch

from .._core import dispatch, library
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.tensors import Pair, channels_inside, pair
from . import aten, reference
from .shapes import OP, SHAPES, TINY, launches


def average_pool2d(x: torch.Tensor, window: Pair) -> torch.Tensor:
    """x [N,C,H,W] -> the means of windows side by side, [N,C,H//h,W//w]; rows and columns left over are not read.

    Raises ValueError for a window that is not 1 to the size of the map.
    """
    window = pair(window)
    if x.dim() != 4 or not all(1 <= w <= size for w, size in zip(window, x.shape[2:], strict=True)):
        raise ValueError(f"window = {window} for x of {list(x.shape)}: allowed are 1 to the sizes of a map [N,C,H,W]")
    passes = ("forward", "grad_input") if torch.is_grad_enabled() else ("forward",)
    provider = dispatch.provider(OPERATION, x.device, lambda pass_name: _problem(pass_name, x, x.shape, window), passes)
    if provider == "triton":
        return _pool(channels_inside(x), window)
    form = reference if provider == "reference" else aten
    return form.forward(x, window)


def problem(x, window: Pair, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `average_pool2d` takes."""
    return _problem(pass_name, x, x.shape, pair(window))


def _problem(pass_name, x, shape, window) -> Problem:
    size = (shape[2] // window[0], shape[3] // window[1])
    sizes = (size, tuple(window), tuple(window))
    return Problem(OP, pass_name, x.device, x.dtype, shape[0], shape[1], *sizes, unsupported_reason(x))


def _forward(x, window):
    module, options = dispatch.implementation(OPERATION, _problem("forward", x, x.shape, window))
    return module.forward(x, window, **options).contiguous(memory_format=library.memory_format(x))


def _grad_input(grad, size, window):
    module, options = dispatch.implementation(OPERATION, _problem("grad_input", grad, (*grad.shape[:2], *size), window))
    return module.grad_input(grad, size, window, **options).contiguous(memory_format=library.memory_format(grad))


def _backward(grad, x, needs, window):
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(aten.forward, grad, (x,), needs, window)
    return (_pool_grad_input(grad, x.shape[2:], window),)


def _fake_forward(x, window):
    shape = (*x.shape[:2], x.shape[2] // window[0], x.shape[3] // window[1])
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


def _fake_grad_input(grad, size, window):
    return grad.new_empty((*grad.shape[:2], *size)).contiguous(memory_format=library.memory_format(grad))


_pool = library.register(
    "average_pool2d(Tensor x, int[2] window) -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=lambda *_, **__: 0,  # as PyTorch counts pooling
    backward=_backward,
    num_tensors=1,
)
_pool_grad_input = library.register(
    "average_pool2d_grad_input(Tensor grad, SymInt[2] size, int[2] window) -> Tensor",
    run=_grad_input,
    fake=_fake_grad_input,
    flops=lambda *_, **__: 0,
)
OPERATION = Operation(
    __name__,
    {_pool: aten.forward},
    problem=problem,
    passes=("forward", "grad_input"),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
