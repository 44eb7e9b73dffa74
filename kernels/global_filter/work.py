"""The passes of global_filter as the benchmarks time them, by every form."""

from __future__ import annotations

import torch

from .._core.dispatch import imposed
from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.work import Work, random_map, trained
from . import global_filter, reference
from .shapes import OP


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    """The filter's own arithmetic is float32 in every dtype of the maps."""
    kind, n, c, size = getattr(torch, dtype), shape.images, shape.channels, shape.size

    def make() -> tuple:
        return random_map(n, c, size, kind, device), torch.randn(c, size, size // 2 + 1, 2, device=device)

    def plain(x, weight):
        with imposed(OP, "aten"):
            return global_filter(x, weight)

    def by_fft(x, weight):
        return reference.forward(x.to(weight.dtype), weight).to(x.dtype)

    of = trained if pass_name == "training" else lambda form: form
    forms = {"aten": of(plain), "fft": of(by_fft)}
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = trained(global_filter, "triton") if pass_name == "training" else triton.forward
    times = 3 if pass_name == "training" else 1
    return Work(
        shape, pass_name, dtype, make, forms,
        lambda *t: of(by_fft)(*(x.double() for x in t)),
        times * (torch.finfo(kind).bits // 8 * 2 * n * c * size**2 + 4 * c * size * (size + 2)),
        times * 2 * n * c * size**4,
    )  # fmt: skip
