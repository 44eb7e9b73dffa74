"""Global filter: one learnt complex factor per frequency of each channel, a circular convolution as large as the map.

Paper: Global Filter Networks, NeurIPS 2021, https://arxiv.org/abs/2107.00645
y = irfft2(rfft2(x) * weight), orthonormal: complex along H, then real along W, which ignores the imaginary part of the
first (and, for even W, the last) bin.
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library, transforms
from .._core.operation import Operation
from . import aten, direct, reference
from .shapes import SHAPES, TINY


def global_filter(x: torch.Tensor, weight: torch.Tensor, matrices: torch.Tensor | None = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2] (real and imaginary part) -> [N,C,H,W] in the dtype of x.

    Computed in float32, or in float64 when x or weight is float64, whatever autocast says. FLOPs counted: 2.5 n log2 n
    per real transform of n values, 6 per complex product. `matrices` [C,HW,HW] are those of `kept_matrices`, for a
    weight that stays as it is: where the filter is a product of matrices they need not be built then. They have no
    gradient. Raises ValueError when shapes do not fit.
    """
    channels, height, width = x.shape[1:]
    if weight.shape != (channels, height, width // 2 + 1, 2):
        allowed = [channels, height, width // 2 + 1, 2]
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is {allowed} for x of {list(x.shape)}")
    if matrices is not None and matrices.shape != (channels, height * width, height * width):
        allowed = [channels, height * width, height * width]
        raise ValueError(f"matrices has shape {list(matrices.shape)}: allowed is {allowed} for x of {list(x.shape)}")
    if transforms.wants_plain():
        form = direct if transforms.exports_onnx() else reference  # ONNX has no complex numbers
        return form.forward(*_in_one_dtype(x, weight)).to(x.dtype)
    return _global_filter(x, weight, matrices)


def kept_matrices(weight: torch.Tensor, height: int, width: int) -> torch.Tensor | None:
    """The matrices of a filter [C,H,W//2+1,2], if a single image is filtered by them where the weight is, else None."""
    if not aten.prefers_product(weight.device.type, torch.Size((1, weight.shape[0], height, width))):
        return None
    return aten.circulant(_in_one_dtype(weight)[0], height, width)


def _in_one_dtype(*tensors: torch.Tensor | None) -> list:
    given = [t for t in tensors if t is not None]
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    return [t if t is None else t.to(dtype) for t in tensors]


def _forward(x, weight, matrices):
    run = {"aten": aten.forward, "reference": reference.forward}[dispatch.choose(OPERATION)]
    with torch.autocast(x.device.type, enabled=False):
        y = run(*_in_one_dtype(x, weight, matrices))
    return y.to(x.dtype).contiguous(memory_format=library.memory_format(x))


def _grad_weight(grad, x):
    run = {"aten": aten.grad_weight, "reference": reference.grad_weight}[dispatch.choose(OPERATION)]
    with torch.autocast(x.device.type, enabled=False):
        return run(*_in_one_dtype(grad, x)).contiguous()


def _backward(grad, x, weight, _, needs):
    # the adjoint in x is the same filter with the conjugate weight, hence differentiable again
    conjugate = torch.cat((weight[..., :1], -weight[..., 1:]), -1)
    gx = _global_filter(grad, conjugate, None) if needs[0] else None
    to_weight = _differentiable_grad_weight if torch.is_grad_enabled() else _global_filter_grad_weight
    gw = to_weight(grad, x).to(weight.dtype) if needs[1] else None
    return gx, gw, None


def _differentiable_grad_weight(grad, x):
    return reference.grad_weight(*_in_one_dtype(grad, x))


def _fake_grad_weight(grad, x):
    dtype = torch.float64 if torch.float64 in (grad.dtype, x.dtype) else torch.float32
    return x.new_empty((*x.shape[1:3], x.shape[3] // 2 + 1, 2), dtype=dtype)


def _flops(x, *_, **out) -> int:
    n, c, height, width = x
    transforms = 2 * 2.5 * height * width * math.log2(height * width)
    return round(n * c * (transforms + 6 * height * (width // 2 + 1)))


_global_filter = library.register(
    "global_filter(Tensor x, Tensor weight, Tensor? matrices) -> Tensor",
    run=_forward,
    fake=lambda x, *_: torch.empty_like(x, memory_format=library.memory_format(x)),
    flops=_flops,
    backward=_backward,
    num_tensors=3,
)
_global_filter_grad_weight = library.register(
    "global_filter_grad_weight(Tensor grad, Tensor x) -> Tensor",
    run=_grad_weight,
    fake=_fake_grad_weight,
    flops=_flops,
)
OPERATION = Operation(
    __name__,
    {_global_filter: lambda x, weight, _: direct.forward(*_in_one_dtype(x, weight)).to(x.dtype)},
    providers=("aten", "reference"),
    forms=aten.FORMS,
    passes=("forward", "training"),
    products=True,
    shapes=SHAPES,
    tiny=TINY,
)
