"""The passes of involution as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map
from . import aten, reference
from .one_thread import cupy_installed, involution_one_thread


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, k, c, groups = getattr(torch, dtype), shape.kernel, shape.channels, shape.channels // shape.width
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (random_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        dims = (shape.images, out, out, k, k, groups)
        weight = torch.randn(dims, device=device, dtype=kind).permute(0, 5, 4, 3, 1, 2)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[pass_name]

    def form(module) -> Callable:
        rest = {"forward": (), "grad_input": ((shape.size,) * 2,), "grad_weight": (groups, (k, k))}[pass_name]
        return lambda a, b: getattr(module, pass_name)(a, b, *rest, *geometry)

    forms = {"aten": form(aten), "unfold": form(reference)}
    if pass_name == "forward":
        forms["unfold_plain"] = lambda a, b: _unfold(a, b, *geometry)
    if unavailable_reason() is None:
        from . import triton

        def ours(a, b, config=None):
            if pass_name != "grad_weight":
                rest = {"forward": (), "grad_input": ((shape.size,) * 2,)}[pass_name]
                return getattr(triton, pass_name)(a, b, *rest, *geometry, config=config)
            dims = (shape.images, out, out, k, k, groups)
            target = torch.empty(dims, dtype=kind, device=device).permute(0, 5, 4, 3, 1, 2)
            return triton.grad_weight(a, b, target, *geometry, config=config)

        forms["triton"] = ours
    if pass_name == "forward" and cupy_installed():
        forms["cupy_one_thread"] = lambda a, b: involution_one_thread(a, b, *geometry)
    width = torch.finfo(kind).bits // 8
    values = shape.images * (c * (shape.size**2 + out**2) + groups * k * k * out**2)
    exact = form(aten)
    return Work(
        shape, pass_name, dtype, make, forms, lambda a, b: exact(a.double(), b.double()),
        width * values, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip


def _unfold(x: torch.Tensor, weight: torch.Tensor, stride, padding, dilation) -> torch.Tensor:
    """As published code has it, all in the dtype of x."""
    n, c = x.shape[:2]
    groups, kernel_h, kernel_w, height, width = weight.shape[1:]
    columns = F.unfold(x, (kernel_h, kernel_w), dilation, padding, stride)
    columns = columns.view(n, groups, c // groups, -1, height, width)
    return (columns * weight.flatten(2, 3).unsqueeze(2)).sum(3).view(n, c, height, width)
