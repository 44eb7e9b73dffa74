"""The passes of spanned_involution as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.settings import forced
from ..tools.work import Work, random_map, trained
from . import apart, spanned_involution


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, k, c, groups = getattr(torch, dtype), shape.kernel, shape.channels, shape.channels // shape.width
    width, size = max(1, c // 4), shape.size

    def make() -> tuple:
        x, features = (random_map(shape.images, channels, size, kind, device) for channels in (c, width))
        weight = torch.randn(groups * k * k, width, 1, 1, device=device) / width**0.5
        return x, features, weight.to(kind), torch.randn(groups * k * k, device=device).to(kind)

    options: Any = {"kernel_size": (k, k), "stride": (1, 1), "padding": (k // 2, k // 2), "dilation": (1, 1)}

    def unfolded(*tensors):
        with forced("reference"):
            return apart(*tensors, **options)

    def ours(*tensors):
        return spanned_involution(*tensors, **options)

    of = trained if pass_name == "training" else lambda form: form
    forms: dict[str, Callable] = {"aten": of(lambda *t: apart(*t, **options)), "unfold": of(unfolded)}
    if unavailable_reason() is None:
        from . import triton

        def with_tile(*tensors, config=None):
            return triton.forward(*tensors, **options, config=config)

        forms["triton"] = trained(ours, "triton") if pass_name == "training" else with_tile
    pixels = shape.images * size**2
    bytes_min = torch.finfo(kind).bits // 8 * (pixels * (2 * c + width) + groups * k * k * width)
    times = 3 if pass_name == "training" else 1
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: of(unfolded)(*(x.double() for x in t)),
        times * bytes_min, times * 2 * pixels * (groups * k * k * width + c * k * k),
    )  # fmt: skip
