"""Dynamic convolution by its n shared kernels: each applied to every sample, mixed by the samples' factors.

One registered operation, operation(x, weight, spatial, kernel, stride, padding, dilation): x [N,C,H,W], weight
[n,C',C,Kh,Kw], spatial [N,Kh,Kw], kernel [N,n] -> [N,C',H',W'].
"""

from __future__ import annotations

import math

import torch

from .._core import dispatch, library
from .._core.geometry import out_size
from .._core.launch import unsupported_reason
from . import aten
from .cases import convolution_problem


def form(x, weight, spatial, kernel, stride, padding, dilation) -> torch.Tensor:
    """Differentiable any number of times."""
    spatial, kernel = spatial[:, None, None, None].to(x.dtype), kernel[:, :, None, None, None, None].to(x.dtype)
    return aten.n_fold(x, weight, spatial, kernel, stride, padding, dilation, 1)


def _ours(pass_name, x, weight_shape, stride, padding, dilation, *tensors):
    """(our kernels, the measured configuration), or (None, None) where they do not run this pass."""
    size, why = out_size(x.shape, weight_shape, stride, padding, dilation), unsupported_reason(x, *tensors)
    from . import OPERATION  # defined where this module is imported

    sizes = (x.shape[1], weight_shape[1], size, weight_shape[3:], stride, 1)
    choice = dispatch.decide(OPERATION, convolution_problem(pass_name, x, *sizes, why, "n_fold"))
    if choice.provider != "triton":
        return None, None
    from . import triton_n_fold

    return triton_n_fold, choice.config


def _forward(x, weight, spatial, kernel, *geometry):
    ours, config = _ours("forward", x, weight.shape, *geometry, weight)
    tensors = (x, weight, spatial, kernel)
    y = ours.forward(*tensors, *geometry, config) if ours else form(*tensors, *geometry)
    return y.contiguous(memory_format=library.memory_format(x))


def _grads(grad, x, weight, spatial, kernel, *geometry):
    ours, config = _ours("grad_input", x, weight.shape, *geometry, weight, grad)
    if ours:
        gx, *others = ours.grads(grad, x, weight, spatial, kernel, *geometry, config)
    else:
        tensors = tuple(t.detach().requires_grad_() for t in (x, weight, spatial, kernel))
        found = library.composite_backward(form, grad, tensors, (True, False, True, True), *geometry)
        gx, *others = (g for g in found if g is not None)
    return gx.contiguous(memory_format=library.memory_format(x)), *(g.contiguous() for g in others)


def _grad_weight(grad, x, kernel_size, spatial, kernel, *geometry):
    shape = (kernel.shape[1], grad.shape[1], x.shape[1], *kernel_size)
    ours, config = _ours("grad_weight", x, shape, *geometry, grad)
    if ours:
        return ours.grad_weight(grad, x, kernel_size, spatial, kernel, *geometry, config)
    weight = x.new_zeros(shape).requires_grad_()
    needs = (False, True, False, False)
    gw = library.composite_backward(form, grad, (x, weight, spatial, kernel), needs, *geometry)[1]
    return gw.movedim(2, -1).contiguous().movedim(-1, 2)


def _backward(grad, x, weight, spatial, kernel, needs, *geometry):
    if torch.is_grad_enabled():  # create_graph
        return library.composite_backward(form, grad, (x, weight, spatial, kernel), needs, *geometry)
    gx = gs = gk = gw = None
    if needs[0] or needs[2] or needs[3]:
        gx, gs, gk = _operation_grads(grad, x, weight, spatial, kernel, *geometry)
    if needs[1]:
        gw = _operation_grad_weight(grad, x, weight.shape[3:], spatial, kernel, *geometry)
    return [g if need else None for g, need in zip((gx, gw, gs, gk), needs, strict=True)]


def _fake(x, weight, spatial, kernel, *geometry):
    shape = (x.shape[0], weight.shape[1], *out_size(x.shape, weight.shape, *geometry))
    return x.new_empty(shape).contiguous(memory_format=library.memory_format(x))


def _fake_grads(grad, x, weight, spatial, kernel, *_):
    gx = x.new_empty(x.shape).contiguous(memory_format=library.memory_format(x))
    return gx, spatial.new_empty(spatial.shape), kernel.new_empty(kernel.shape)


def _fake_grad_weight(grad, x, kernel_size, spatial, kernel, *_):
    return x.new_empty((kernel.shape[1], grad.shape[1], *kernel_size, x.shape[1])).movedim(-1, 2)


operation = library.register(
    "odconv2d_n_fold(Tensor x, Tensor weight, Tensor spatial, Tensor kernel, int[2] stride, int[2] padding,"
    " int[2] dilation) -> Tensor",
    run=_forward,
    fake=_fake,
    flops=lambda x, weight, *_, out_shape, **__: 2 * weight[0] * math.prod((*out_shape, *weight[2:])),
    backward=_backward,
    num_tensors=4,
)
_operation_grads = library.register(
    "odconv2d_n_fold_grads(Tensor grad, Tensor x, Tensor weight, Tensor spatial, Tensor kernel, int[2] stride,"
    " int[2] padding, int[2] dilation) -> (Tensor, Tensor, Tensor)",
    run=_grads,
    fake=_fake_grads,
    flops=lambda grad, x, weight, *_, **__: 2 * weight[0] * math.prod((*grad, *weight[2:])),
)
_operation_grad_weight = library.register(
    "odconv2d_n_fold_grad_weight(Tensor grad, Tensor x, SymInt[2] kernel_size, Tensor spatial, Tensor kernel,"
    " int[2] stride, int[2] padding, int[2] dilation) -> Tensor",
    run=_grad_weight,
    fake=_fake_grad_weight,
    flops=lambda grad, *_, out_shape, **__: 2 * out_shape[0] * math.prod((*grad, *out_shape[2:])),
)
