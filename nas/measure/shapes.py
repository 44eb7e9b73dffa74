"""Networks run on meta tensors: what has a shape and no values, at the price of a look.

What torch itself does to find a shape takes milliseconds for each norm and activation; and its way for some operations,
as all that its modes are called for, is kept from being compiled by wrappers whose first call imports the compiler: 2 s
of each process, most of which compile nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_KEEP_SHAPE = {  # and the memory format of what they return
    _ATEN.native_batch_norm.default: torch.preserve_format,
    _ATEN._native_batch_norm_legit_no_training.default: torch.preserve_format,
    _ATEN.native_layer_norm.default: torch.contiguous_format,
    _ATEN.relu.default: torch.preserve_format,
    _ATEN.gelu.default: torch.preserve_format,
    _ATEN.hardtanh.default: torch.preserve_format,
    _ATEN.sigmoid.default: torch.preserve_format,
}


class Shapes(TorchDispatchMode):
    """Refuses what FlopCounterMode would take for free, and answers at once for what is most of a network.

    ValueError for an operation that does arithmetic of its own without a formula.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _KEEP_SHAPE:
            out = _same(args[0]) if _KEEP_SHAPE[func] is torch.preserve_format else args[0].new_empty(args[0].shape)
            return out if len(func._schema.returns) == 1 else (out, out.new_empty(0), out.new_empty(0))
        shape_of = _SHAPES.get(func)
        if shape_of is not None and not kwargs and (found := shape_of(*args)) is not None:
            return found
        is_foreign = func.namespace not in ("aten", "prim", "prims")
        is_fourier = func.namespace == "aten" and func._schema.name.startswith("aten::_fft")
        if (is_foreign or is_fourier) and func.overloadpacket not in flop_registry:
            raise ValueError(f"num_macs: the operation {func} has no FLOP formula")
        return func(*args, **(kwargs or {}))


def never_compiled(mode: Any) -> Any:
    """A mode under which nothing is compiled, so that the compiler need not be told to stay away from it."""
    mode.__torch_dispatch__ = MethodType(inspect.unwrap(type(mode).__torch_dispatch__), mode)
    return mode


def _like(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Of that shape, in the memory format of `tensor`."""
    nhwc = len(shape) == tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    kept = torch.channels_last if nhwc and not tensor.is_contiguous() else torch.contiguous_format
    return torch.empty(shape, dtype=tensor.dtype, device="meta", memory_format=kept)


def _same(tensor: Tensor) -> Tensor:
    """Of its shape and strides, but for gaps, which are closed."""
    strides = tensor.stride()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    if reach != tensor.numel():
        if 0 in strides:
            return torch.empty_like(tensor)
        inwards = sorted(reversed(range(tensor.ndim)), key=lambda dim: (strides[dim], tensor.shape[dim]))
        strides = [math.prod(tensor.shape[i] for i in inwards[: inwards.index(dim)]) for dim in range(tensor.ndim)]
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device="meta")


def _elementwise(a: Any, b: Any) -> Tensor | None:
    if not isinstance(a, Tensor) or not a.is_floating_point():
        return None
    if not isinstance(b, Tensor):
        return _same(a) if isinstance(b, int | float) else None
    if a.dtype != b.dtype:
        return None
    sizes = list(zip(_padded(a, b.ndim), _padded(b, a.ndim), strict=True))
    if any(one != other and 1 not in (one, other) for one, other in sizes):
        return None
    shape = tuple(other if one == 1 else one for one, other in sizes)
    return _same(a) if a.shape == shape else _like(b, shape)


def _padded(tensor: Tensor, ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - tensor.ndim) + tuple(tensor.shape)


def _mean(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False) -> Tensor:
    gone = {dim % x.ndim for dim in dims or range(x.ndim)}
    return _like(x, [1 if i in gone else size for i, size in enumerate(x.shape) if keepdim or i not in gone])


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first, dim = tensors[0], dim % tensors[0].ndim
    others = {(tensor.dtype, *tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors}
    if len(others) > 1 or any(tensor.ndim != first.ndim for tensor in tensors):
        return None
    return _like(first, [*first.shape[:dim], sum(tensor.shape[dim] for tensor in tensors), *first.shape[dim + 1 :]])


def _addmm(bias: Tensor, a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.shape[1] == b.shape[0] and bias.shape == b.shape[1:] and bias.dtype == a.dtype == b.dtype
    return a.new_empty(a.shape[0], b.shape[1]) if fits else None


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype
    return a.new_empty(a.shape[0], b.shape[1]) if fits else None


def _mul_(a: Tensor, b: Any) -> Tensor | None:
    if isinstance(b, Tensor):
        sizes = zip(a.shape, _padded(b, a.ndim), strict=False)
        if b.ndim > a.ndim or b.dtype != a.dtype or any(other not in (1, size) for size, other in sizes):
            return None
    return a


def _nearest(x: Tensor, size: Sequence[int], *scales: float | None) -> Tensor | None:
    return _like(x, [*x.shape[:2], *size]) if x.ndim == 4 and min(size) > 0 else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    num_dims = weight.ndim - 2
    fits = x.ndim == weight.ndim and x.dtype == weight.dtype and x.shape[1] == weight.shape[1] * groups
    if transposed or not fits or any(len(given) != num_dims for given in (stride, padding, dilation)):
        return None
    sizes = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(num_dims)
    ]
    return x.new_empty(x.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


def _avg_pool(
    x: Tensor,
    window: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    *divisors: Any,
) -> Tensor | None:
    stride = stride or window
    if x.ndim != 4 or not len(window) == len(stride) == len(padding) == 2:
        return None
    sizes = []
    for size, side, step, added in zip(x.shape[2:], window, stride, padding, strict=True):
        count = (size + 2 * added - side + (step - 1 if ceil_mode else 0)) // step + 1
        sizes.append(count - int(ceil_mode and (count - 1) * step >= size + added))  # none begins behind the map
    fits = min(sizes) > 0 and all(2 * added <= side for side, added in zip(window, padding, strict=True))
    return _like(x, [*x.shape[:2], *sizes]) if fits else None


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor | None:
    return None if half_to_float else x.new_empty(x.shape)


# what it returns has; None where torch itself has to say, also what is wrong
_SHAPES: dict[Any, Callable[..., Tensor | None]] = {
    _ATEN.add.Tensor: _elementwise,
    _ATEN.mul.Tensor: _elementwise,
    _ATEN.div.Tensor: _elementwise,
    _ATEN.mean.dim: _mean,
    _ATEN.cat.default: _cat,
    _ATEN.addmm.default: _addmm,
    _ATEN.convolution.default: _convolution,
    _ATEN.mm.default: _mm,
    _ATEN.mul_.Tensor: _mul_,
    _ATEN.avg_pool2d.default: _avg_pool,
    _ATEN.upsample_nearest2d.default: _nearest,
    _ATEN._softmax.default: _softmax,
}
