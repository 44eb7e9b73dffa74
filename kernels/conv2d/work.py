"""The passes of conv2d as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    """Alone, and as in inference with shift and ReLU behind it, without and with a residual."""
    kind, c, n, k = getattr(torch, dtype), shape.channels, shape.images, shape.kernel
    options = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1), 1)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        weight = (torch.randn(c, c, k, k, device=device) / (k * c**0.5)).to(kind)
        weight = weight.contiguous(memory_format=torch.channels_last)
        behind = [] if pass_name == "forward" else [torch.randn(c, device=device).to(kind)]
        if pass_name == "joined":
            behind.append(random_map(n, c, out, kind, device))
        return random_map(n, c, shape.size, kind, device), weight, *behind

    def run(form, x, weight, shift=None, residual=None, **more):
        activation = None if shift is None else "relu"
        return form(x, weight, None, None, shift, residual, *options, activation, **more)

    forms: dict[str, Callable] = {
        "channels_last": partial(run, aten.in_place),
        "contiguous": lambda x, *t: run(aten.in_place, x.contiguous(), *t),
    }
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = partial(run, triton.forward)
    if pass_name != "forward" and device.type == "cuda":
        stride, padding, dilation, groups = options

        def in_one(x, weight, shift, residual=None):
            if residual is None:
                return torch.ops.aten.cudnn_convolution_relu(x, weight, shift, stride, padding, dilation, groups)
            whole = torch.ops.aten.cudnn_convolution_add_relu
            return whole(x, weight, residual, 1.0, shift, stride, padding, dilation, groups)

        forms["cudnn_fused"] = in_one
    maps_out = 2 if pass_name == "joined" else 1
    values = n * c * (shape.size**2 + maps_out * out**2) + c * c * k * k
    return Work(
        shape, pass_name, dtype, make, forms,
        lambda *t: run(aten.forward, *(x.double() for x in t)),
        torch.finfo(kind).bits // 8 * values, 2 * n * c * c * k * k * out**2,
    )  # fmt: skip
