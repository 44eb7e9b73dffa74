"""The passes of gnconv_recursion as the benchmarks time them, by every form."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map, trained
from . import apart, gnconv_recursion
from .shapes import recursion_widths


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, size, widths = getattr(torch, dtype), shape.size, recursion_widths(shape)
    pairs = list(zip(widths, (*widths[1:], shape.channels), strict=True))

    def make() -> tuple:
        y = random_map(shape.images, widths[0], size, kind, device)
        a = random_map(shape.images, sum(widths), size, kind, device)[:, widths[0] :]
        steps = [
            t.to(kind)
            for inner, outer in pairs
            for t in (
                torch.randn(outer, inner, 1, 1, device=device) / inner**0.5,
                torch.randn(outer, device=device),
            )
        ]
        return y, a, *steps[-2:], *steps[:-2]

    def ours(y, a, out_weight, out_bias, *steps):
        return gnconv_recursion(y, a, steps[::2], steps[1::2], out_weight, out_bias)

    of = trained if pass_name == "training" else lambda form: form
    forms: dict[str, Callable] = {"aten": of(apart)}
    if unavailable_reason() is None:
        from . import triton

        def with_tile(y, a, out_weight, out_bias, *steps, config=None):
            return triton.forward(y, a, out_weight, out_bias, steps, config)

        forms["triton"] = trained(ours, "triton") if pass_name == "training" else with_tile
    pixels, values = shape.images * size**2, sum(inner * outer for inner, outer in pairs)
    times = 3 if pass_name == "training" else 1
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: of(apart)(*(x.double() for x in t)),
        times * torch.finfo(kind).bits // 8 * (pixels * (sum(widths) + shape.channels) + values),
        times * 2 * pixels * values,
    )  # fmt: skip
