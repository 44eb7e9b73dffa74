"""Global filter: one learnt complex factor per frequency of each channel, a circular convolution as large as the map.

Paper: Global Filter Networks, NeurIPS 2021, https://arxiv.org/abs/2107.00645
y = irfft2(rfft2(x) * weight), orthonormal: complex along H, then real along W, which ignores the imaginary part of the
first (and, for even W, the last) bin.
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library, transforms
from .._core.launch import interpreted, unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import channels_inside
from . import aten, direct, reference
from .shapes import OP, SHAPES, TINY, launches

LARGEST = 32  # rows or columns of a map that a program of ours holds


def global_filter(x: torch.Tensor, weight: torch.Tensor, matrices: torch.Tensor | None = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2] (real and imaginary part) -> [N,C,H,W] in the dtype of x.

    Computed in float32, or in float64 when x or weight is float64, whatever autocast says. FLOPs counted: 2.5 n log2 n
    per real transform of n values, 6 per complex product. `matrices` [C,HW,HW] are those of `kept_matrices`, for a
    weight that stays as it is: where the filter is a product of matrices they need not be built then. They have no
    gradient. Our kernel, for up to 32 rows and columns, runs where it was measured as the faster. Raises ValueError
    when shapes do not fit.
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
    needed = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    # an operation of ours has our kernels in the backward pass too: it must be known that this pays
    fused = dispatch.uses_triton(
        OPERATION,
        x.device,
        lambda pass_name: _problem(pass_name, x, weight),
        ("training" if needed else "forward",),
        deferred=False,
        call=(x, weight, None),
    )
    return _global_filter(channels_inside(x) if fused else x, weight, matrices, fused)


def problem(x, weight, matrices=None, *, pass_name="forward") -> Problem:
    """What the choice of a provider for this call depends on; takes what `global_filter` takes."""
    return _problem(pass_name, x, weight)


def kept_matrices(weight: torch.Tensor, height: int, width: int) -> torch.Tensor | None:
    """The matrices of a filter [C,H,W//2+1,2], if few images are filtered by them where the weight is, else None."""
    images = height * width if weight.device.type == "cuda" else 1
    if not aten.prefers_product(weight.device.type, torch.Size((images, weight.shape[0], height, width))):
        return None
    return aten.circulant(_in_one_dtype(weight)[0], height, width)


def _problem(pass_name, x, weight) -> Problem:
    n, channels, height, width = x.shape
    why = unsupported_reason(x, weight)
    if max(height, width) > LARGEST:
        why = why or f"the map has {height}x{width} pixels: allowed are up to {LARGEST} rows and columns"
    if torch.float64 in (x.dtype, weight.dtype) and not interpreted():
        why = why or "dtype torch.float64: allowed is float32 or half precision"
    return Problem(OP, pass_name, x.device, x.dtype, n, channels, (height, width), unsupported_reason=why)


def _in_one_dtype(*tensors: torch.Tensor | None) -> list:
    given = [t for t in tensors if t is not None]
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    return [t if t is None else t.to(dtype) for t in tensors]


def _forward(x, weight, matrices, fused):
    if fused:
        from . import triton

        config = dispatch.decide(OPERATION, _problem("forward", x, weight)).config  # raises where it cannot run
        return triton.forward(x, weight, config).contiguous(memory_format=library.memory_format(x))
    run = {"aten": aten.forward, "reference": reference.forward}[_plain_form()]
    with torch.autocast(x.device.type, enabled=False):
        y = run(*_in_one_dtype(x, weight, matrices))
    return y.to(x.dtype).contiguous(memory_format=library.memory_format(x))


def _grad_weight(grad, x, fused):
    if fused:
        from . import triton

        return triton.grad_weight(grad, x)
    run = {"aten": aten.grad_weight, "reference": reference.grad_weight}[_plain_form()]
    with torch.autocast(x.device.type, enabled=False):
        return run(*_in_one_dtype(grad, x)).contiguous()


def _plain_form() -> str:
    """Of PyTorch's own operations, where our kernel was not chosen for a call, whatever has been set since."""
    return "reference" if dispatch.choose(OPERATION) == "reference" else "aten"


def _backward(grad, x, weight, _, needs, fused):
    # the adjoint in x is the same filter with the conjugate weight, hence differentiable again
    conjugate = torch.cat((weight[..., :1], -weight[..., 1:]), -1)
    gx = _global_filter(grad, conjugate, None, fused) if needs[0] else None
    if needs[1] and torch.is_grad_enabled():
        return gx, reference.grad_weight(*_in_one_dtype(grad, x)).to(weight.dtype), None
    gw = _global_filter_grad_weight(grad, x, fused).to(weight.dtype) if needs[1] else None
    return gx, gw, None


def _fake_grad_weight(grad, x, _):
    dtype = torch.float64 if torch.float64 in (grad.dtype, x.dtype) else torch.float32
    return x.new_empty((*x.shape[1:3], x.shape[3] // 2 + 1, 2), dtype=dtype)


def _flops(x, *_, **out) -> int:
    n, c, height, width = x
    transforms = 2 * 2.5 * height * width * math.log2(height * width)
    return round(n * c * (transforms + 6 * height * (width // 2 + 1)))


_global_filter = library.register(
    "global_filter(Tensor x, Tensor weight, Tensor? matrices, bool fused) -> Tensor",
    run=_forward,
    fake=lambda x, *_: torch.empty_like(x, memory_format=library.memory_format(x)),
    flops=_flops,
    backward=_backward,
    num_tensors=3,
)
_global_filter_grad_weight = library.register(
    "global_filter_grad_weight(Tensor grad, Tensor x, bool fused) -> Tensor",
    run=_grad_weight,
    fake=_fake_grad_weight,
    flops=_flops,
)
OPERATION = Operation(
    __name__,
    {_global_filter: lambda x, weight, *_: direct.forward(*_in_one_dtype(x, weight)).to(x.dtype)},
    problem=problem,
    rivals=rivals(OP, global_filter, autocasts=False),
    forms=aten.FORMS,
    passes=("forward", "training"),
    products=True,
    matrix_kernels=("filter_gradient",),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
