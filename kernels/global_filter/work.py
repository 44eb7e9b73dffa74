"""The passes of global_filter as the benchmarks time them, by every form."""

from __future__ import annotations

import torch

from .._core.operation import Shape
from ..tools.work import Work, random_map, trained
from . import global_filter, reference


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    """The filter's own arithmetic is float32 in every dtype of the maps; no kernel of ours but the operation."""
    kind, n, c, size = getattr(torch, dtype), shape.images, shape.channels, shape.size

    def make() -> tuple:
        return random_map(n, c, size, kind, device), torch.randn(c, size, size // 2 + 1, 2, device=device)

    def by_fft(x, weight):
        return reference.forward(x.to(weight.dtype), weight).to(x.dtype)

    of = trained if pass_name == "training" else lambda form: form
    times = 3 if pass_name == "training" else 1
    return Work(
        shape, pass_name, dtype, make, {"aten": of(global_filter), "fft": of(by_fft)},
        lambda *t: of(by_fft)(*(x.double() for x in t)),
        times * (torch.finfo(kind).bits // 8 * 2 * n * c * size**2 + 4 * c * size * (size + 2)),
        times * 2 * n * c * size**4,
    )  # fmt: skip
