"""Omni-dimensional dynamic convolution: n kernels, mixed and scaled for each sample along four dimensions.

Paper: Omni-Dimensional Dynamic Convolution, ICLR 2022, https://openreview.net/forum?id=DmpCfq6Mg39
y_b = filter_b * conv(channel_b * x_b, spatial_b * sum_m kernel_bm weight_m).
"""

from __future__ import annotations

import math
from types import ModuleType

import torch

from .._core import dispatch, library
from .._core.geometry import out_size
from .._core.launch import unsupported_reason
from .._core.operation import Operation, Problem
from .._core.rivals import rivals
from .._core.tensors import Pair, accumulator, channels_inside, pair
from . import aten, mixing, n_fold, reference, sampled
from .cases import convolution_problem
from .shapes import OP, SHAPES, TINY, launches

MOST_KERNELS = 8  # that a program of the mixing holds
FORMS = (None, "mixed", "n_fold")
NEAR = 3  # times the border between the forms, up to which both are measured


def odconv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    channel: torch.Tensor | None = None,
    filter: torch.Tensor | None = None,
    spatial: torch.Tensor | None = None,
    kernel: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    form: str | None = None,
) -> torch.Tensor:
    """x [N,C,H,W], weight [n,C',C/groups,Kh,Kw] -> [N,C',H',W'].

    Factors, each None (= 1) or [N, ...] with these elements: channel [N,C], filter [N,C'], spatial [N,Kh*Kw],
    kernel [N,n]. Without `kernel` the n kernels are summed. `form`: mixed, a kernel per sample; n_fold, all n kernels
    on all samples (groups = 1); None, whichever is cheaper. FLOPs counted are those of the form that runs; at N = 1
    that is the convolution and the mixing of one kernel. Raises ValueError for another form and for shapes that do not
    fit.
    """
    geometry = (pair(stride), pair(padding), pair(dilation), groups)
    if form not in FORMS or (form == "n_fold" and groups > 1):
        raise ValueError(f"form = {form!r}, groups = {groups}: allowed is mixed, n_fold for groups = 1, or None")
    _check(x, weight, {"channel": channel, "filter": filter, "spatial": spatial, "kernel": kernel}, groups)
    # one kernel for all samples: an ordinary convolution, unless ours is forced
    sampled_kernels = spatial is not None or kernel is not None or dispatch.choose(OPERATION) == "triton"
    passes = ("forward", "grad_input", "grad_weight") if torch.is_grad_enabled() else ("forward",)
    call = (x, weight, channel, filter, spatial, kernel, *geometry, form)
    provider = (
        dispatch.provider(OPERATION, x.device, lambda p: _problem(p, x, weight, *geometry, form), passes, call=call)
        if sampled_kernels
        else "aten"
    )
    if provider == dispatch.SECOND:
        form = _other_form(x, weight, *geometry)
        dispatch.grant(OPERATION, lambda p: _problem(p, x, weight, *geometry, form), passes)
    if dispatch.ours(provider):
        if (form or aten.cheaper_form("cuda", x.shape, weight.shape, *geometry)) == "n_fold":
            return _folded(x, weight, channel, filter, spatial, kernel, *geometry[:3])
        x, *mixed_from = parts(x, weight, channel, filter, spatial, kernel, groups)
        return _sampled(x, unpacked(_kernels(*mixed_from), weight), *geometry)
    n, (num_kernels, out_channels, _, kernel_h, kernel_w) = x.shape[0], weight.shape
    channel = None if channel is None else channel.reshape(n, x.shape[1], 1, 1)
    filter = None if filter is None else filter.reshape(n, out_channels, 1, 1)
    spatial = None if spatial is None else spatial.reshape(n, 1, 1, 1, kernel_h, kernel_w)
    kernel = None if kernel is None else kernel.reshape(n, num_kernels, 1, 1, 1, 1)
    if dispatch.decide(OPERATION).provider == "reference":
        return reference.odconv2d(x, weight, channel, filter, spatial, kernel, *geometry)
    return aten.odconv2d(x, weight, channel, filter, spatial, kernel, *geometry, form)


def _other_form(x, weight, *geometry) -> str:
    return "mixed" if aten.cheaper_form("cuda", x.shape, weight.shape, *geometry) == "n_fold" else "n_fold"


def _other_form_may_win(x, weight, channel, filter, spatial, kernel, stride, padding, dilation, groups, form) -> bool:
    """Near the border that bytes and arithmetic predict, where either form of our kernels may be the faster."""
    if form or groups > 1 or x.shape[0] == 1 or weight.shape[0] == 1:
        return False
    pixels = math.prod(out_size(x.shape, weight.shape, stride, padding, dilation))
    return 1 / NEAR <= pixels * (weight.shape[0] - 1) / aten.BORDER <= NEAR


def _check(x, weight, factors, groups) -> None:
    if x.dim() != 4 or weight.dim() != 5:
        raise ValueError(f"x has {x.dim()} and weight {weight.dim()} dimensions: allowed are 4 and 5")
    (n, c), (num_kernels, filters, width, *taps) = x.shape[:2], weight.shape
    if groups < 1 or c != width * groups or filters % groups:
        inner = f"{c / groups:g}" if groups > 0 else "C / groups"
        allowed = f"[n, {groups} m, {inner}, Kh, Kw] for x of {list(x.shape)} and {groups} groups (1 or more)"
        raise ValueError(f"weight has shape {list(weight.shape)}: allowed is {allowed}")
    for (name, factor), each in zip(factors.items(), (c, filters, math.prod(taps), num_kernels), strict=True):
        if factor is not None and (factor.shape[:1] != (n,) or factor.numel() != n * each):
            raise ValueError(f"{name} has shape {list(factor.shape)}: allowed is [{n}, {each}] for x and weight")


def problem(
    x, weight, channel=None, filter=None, spatial=None, kernel=None,
    stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1, form=None, *, pass_name="forward",
) -> Problem:  # fmt: skip
    """What the choice of a provider for this call depends on; takes what `odconv2d` takes."""
    return _problem(pass_name, x, weight, pair(stride), pair(padding), pair(dilation), groups, form)


def _problem(pass_name, x, weight, stride, padding, dilation, groups, form) -> Problem:
    why = unsupported_reason(x, weight)
    form = form or aten.cheaper_form("cuda", x.shape, weight.shape, stride, padding, dilation, groups)
    if form == "mixed" and weight.shape[0] > MOST_KERNELS:
        why = why or f"{weight.shape[0]} kernels: allowed are up to {MOST_KERNELS}"
    size = out_size(x.shape, weight.shape, stride, padding, dilation)
    return convolution_problem(
        pass_name, x, x.shape[1], weight.shape[1], size, weight.shape[3:], stride, groups, why, form
    )


def parts(x, weight, channel, filter, spatial, kernel, groups) -> tuple[torch.Tensor, ...]:
    """x and what the kernels of its samples are mixed from: packed weights [n,C',Kh*Kw*C/g] and a factor per kernel
    [N,n], per filter [N,C'] and per column [N,Kh*Kw*C/g], so that nothing else of x or of the result is scaled.
    """
    dtype = _product_dtype(x)
    n, (num_kernels, out_channels, width, *size) = x.shape[0], weight.shape
    taps = math.prod(size)
    if kernel is None:
        weight, num_kernels = weight.sum(0, keepdim=True), 1
    kernel = x.new_ones((n, 1)) if kernel is None else kernel.reshape(n, num_kernels)
    filter = x.new_ones((n, out_channels)) if filter is None else filter.reshape(n, out_channels)
    columns = x.new_ones((n, taps, 1)) if spatial is None else spatial.reshape(n, taps, 1)
    columns = columns.to(accumulator(x.dtype))
    if channel is not None and groups > 1:  # whose channel it is depends on the filter's group
        x = x * channel.reshape(n, x.shape[1], 1, 1)
    elif channel is not None:
        columns = columns * channel.reshape(n, 1, width)
    columns = columns.expand(n, taps, width).reshape(n, taps * width)
    packed = weight.to(dtype).movedim(2, -1).reshape(num_kernels, out_channels, taps * width)
    return channels_inside(x.to(dtype)), packed, kernel, filter, columns


def _folded(x, weight, channel, filter, spatial, kernel, *geometry) -> torch.Tensor:
    """By shared kernels: maps are small where that pays, and their factors are applied to them."""
    dtype, (n, *_), (_, out_channels, _, *size) = _product_dtype(x), x.shape, weight.shape
    x = x if channel is None else x * channel.reshape(n, x.shape[1], 1, 1)
    weight = (weight.sum(0, keepdim=True) if kernel is None else weight).to(dtype)
    spatial = x.new_ones((n, *size)) if spatial is None else spatial.reshape(n, *size)
    kernel = x.new_ones((n, 1)) if kernel is None else kernel.reshape(n, len(weight))
    packed = weight.movedim(2, -1).contiguous().movedim(-1, 2)
    y = n_fold.operation(channels_inside(x.to(dtype)), packed, spatial, kernel, *geometry)
    return y if filter is None else y * filter.reshape(n, out_channels, 1, 1).to(dtype)


def _product_dtype(x: torch.Tensor) -> torch.dtype:
    """What x and weights are multiplied in: under autocast its lower precision."""
    lower = library.autocasts(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if lower else x.dtype


def unpacked(kernels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mixed kernels [N,C',Kh*Kw*C/g] as [N,C',C/g,Kh,Kw], the channels still together in memory."""
    _, out_channels, width, *size = weight.shape
    return kernels.view(-1, out_channels, *size, width).movedim(-1, 2)


def _provider(pass_name, channels, filters, size, kernel, stride, groups, *tensors) -> tuple[ModuleType, dict]:
    """The module that runs, and its options."""
    sizes = (channels, filters, size, kernel, stride, groups)
    choice = dispatch.decide(
        OPERATION, convolution_problem(pass_name, tensors[0], *sizes, unsupported_reason(*tensors))
    )
    if choice.provider == "triton":
        from . import triton

        return triton, {"config": choice.config}
    return sampled, {}


def _forward(x, weight, stride, padding, dilation, groups):
    size = out_size(x.shape, weight.shape, stride, padding, dilation)
    sizes = (x.shape[1], weight.shape[1], size, weight.shape[3:])
    module, options = _provider("forward", *sizes, stride, groups, x, weight)
    y = module.forward(x, weight, stride, padding, dilation, groups, **options)
    return y.contiguous(memory_format=library.memory_format(x))


def _grad_input(grad, weight, size, stride, padding, dilation, groups):
    sizes = (weight.shape[2] * groups, weight.shape[1], grad.shape[2:], weight.shape[3:])
    module, options = _provider("grad_input", *sizes, stride, groups, grad, weight)
    gx = module.grad_input(grad, weight, size, stride, padding, dilation, groups, **options)
    return gx.contiguous(memory_format=library.memory_format(grad))


def _grad_weight(grad, x, kernel_size, stride, padding, dilation, groups):
    sizes = (x.shape[1], grad.shape[1], grad.shape[2:], kernel_size)
    module, options = _provider("grad_weight", *sizes, stride, groups, grad, x)
    gw = module.grad_weight(grad, x, kernel_size, stride, padding, dilation, groups, **options)
    return gw.movedim(2, -1).contiguous().movedim(-1, 2)


def _backward(grad, x, weight, needs, *geometry):
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(sampled.forward, grad, (x, weight), needs, *geometry)
    gx = _sampled_grad_input(grad, weight, x.shape[2:], *geometry) if needs[0] else None
    gw = _sampled_grad_weight(grad, x, weight.shape[3:], *geometry) if needs[1] else None
    return gx, gw


def _fake_forward(x, weight, stride, padding, dilation, groups):
    shape = (x.shape[0], weight.shape[1], *out_size(x.shape, weight.shape, stride, padding, dilation))
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


def _fake_grad_input(grad, weight, size, stride, padding, dilation, groups):
    shape = (grad.shape[0], weight.shape[2] * groups, *size)
    return grad.new_empty(shape).contiguous(memory_format=library.memory_format(grad))


def _fake_grad_weight(grad, x, kernel_size, stride, padding, dilation, groups):
    return x.new_empty((x.shape[0], grad.shape[1], *kernel_size, x.shape[1] // groups)).movedim(-1, 2)


def _mixing(*tensors) -> ModuleType:
    """The mixing has no table of its own: it goes with the convolution, whoever asks for it here asks for Triton."""
    if unsupported_reason(*tensors):
        return mixing

    from . import triton_mixing

    return triton_mixing


def _mix(*tensors):
    return _mixing(*tensors).mix(*tensors)


def _mix_grads(*tensors):
    return _mixing(*tensors).mix_grads(*tensors)


def _mix_backward(grad, *tensors_and_needs):
    *tensors, needs = tensors_and_needs
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(mixing.mix, grad, tuple(tensors), needs)
    return [g if need else None for g, need in zip(_kernels_grads(grad, *tensors), needs, strict=True)]


_sampled = library.register(
    "odconv2d(Tensor x, Tensor weight, int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor",
    run=_forward,
    fake=_fake_forward,
    flops=lambda x, weight, *_, out_shape, **__: 2 * math.prod((*out_shape, *weight[2:])),
    backward=_backward,
)
_sampled_grad_input = library.register(
    "odconv2d_grad_input(Tensor grad, Tensor weight, SymInt[2] size, int[2] stride, int[2] padding, int[2] dilation,"
    " int groups) -> Tensor",
    run=_grad_input,
    fake=_fake_grad_input,
    flops=lambda grad, weight, *_, **__: 2 * math.prod((*grad, *weight[2:])),
)
_sampled_grad_weight = library.register(
    "odconv2d_grad_weight(Tensor grad, Tensor x, SymInt[2] kernel_size, int[2] stride, int[2] padding,"
    " int[2] dilation, int groups) -> Tensor",
    run=_grad_weight,
    fake=_fake_grad_weight,
    flops=lambda grad, *_, out_shape, **__: 2 * math.prod((*grad, *out_shape[2:])),
)
_kernels = library.register(
    "odconv2d_kernels(Tensor weight, Tensor kernel, Tensor rows, Tensor columns) -> Tensor",
    run=_mix,
    fake=lambda weight, kernel, *_: weight.new_empty((kernel.shape[0], *weight.shape[1:])),
    flops=lambda weight, kernel, *_, **__: 2 * kernel[0] * math.prod(weight),
    backward=_mix_backward,
    num_tensors=4,
)
_kernels_grads = library.register(
    "odconv2d_kernels_grads(Tensor grad, Tensor weight, Tensor kernel, Tensor rows, Tensor columns)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    run=_mix_grads,
    fake=lambda _, *tensors: tuple(t.new_empty(t.shape) for t in tensors),
    flops=lambda grad, weight, *_, **__: 6 * math.prod((weight[0], *grad)),
)
OPERATION = Operation(
    __name__,
    {_sampled: sampled.forward, _kernels: mixing.mix, n_fold.operation: n_fold.form},
    problem=problem,
    rivals=rivals(OP, odconv2d, may_win=_other_form_may_win),
    forms=aten.FORMS,
    passes=("forward", "grad_input", "grad_weight", "training"),
    products=True,
    matrix_kernels=("convolution_product", "sampled_outer", "folded_product", "folded_outer", "mixing_gradients"),
    shapes=SHAPES,
    tiny=TINY,
    launches=launches,
)
