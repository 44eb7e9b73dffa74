"""Dynamic convolution as the benchmarks time it: mixed kernels and shared ones, and the convolution inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .._core.launch import unavailable_reason
from .._core.operation import Shape
from ..tools.settings import forced
from ..tools.work import Work, dynamic_form, random_map, trained
from . import aten as aten_form
from . import n_fold, odconv2d, parts, reference, sampled, unpacked


def work(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    """grad_input and grad_weight are those of the convolution: its kernels mixed already, or of the shared ones.

    Ours is in the form that it takes by itself, and in the other one under its name.
    """
    folded = dynamic_form(shape) == "n_fold"
    if pass_name in ("grad_input", "grad_weight"):
        return (_shared if folded else _sampled)(shape, pass_name, dtype, device)
    kind, c, n, k = getattr(torch, dtype), shape.channels, shape.images, shape.kernel
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1), 1)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        weight = torch.randn(shape.width, c, c, k, k, device=device) / (k * c**0.5)
        factors = [torch.rand(n, length, device=device).to(kind) for length in (c, c, k * k, shape.width)]
        return random_map(n, c, shape.size, kind, device), weight.to(kind), *factors

    def shaped(form: Callable) -> Callable:
        def run(x, weight, channel, filter, spatial, kernel):
            factors = (channel.view(n, c, 1, 1), filter.view(n, c, 1, 1), spatial.view(n, 1, 1, 1, k, k))
            return form(x, weight, *factors, kernel.view(n, -1, 1, 1, 1, 1), *geometry)

        return run

    def ours(*tensors, form=None):
        return odconv2d(*tensors, stride=geometry[0], padding=geometry[1], form=form)

    def ours_forward(*tensors, form):
        with forced("triton"):
            return ours(*tensors, form=form)

    aten, published = shaped(aten_form.odconv2d), shaped(reference.odconv2d)
    of = trained if pass_name == "training" else lambda form: form
    forms: dict[str, Callable] = {"aten": of(aten), "published": of(published)}
    if unavailable_reason() is None:
        from . import triton, triton_mixing, triton_n_fold

        def with_tile(x, weight, channel, filter, spatial, kernel, config=None):
            if folded:
                weight = weight.movedim(2, -1).contiguous().movedim(-1, 2)
                spatial, x = spatial.view(n, k, k), x * channel.view(n, c, 1, 1)
                y = triton_n_fold.forward(x, weight, spatial, kernel, *geometry[:3], config)
                return y * filter.view(n, c, 1, 1)
            x, *mixed_from = parts(x, weight, channel, filter, spatial, kernel, 1)
            return triton.forward(x, unpacked(triton_mixing.mix(*mixed_from), weight), *geometry, config=config)

        other = "mixed" if folded else "n_fold"
        forms["triton"], forms[f"triton_{other}"] = with_tile, partial(ours_forward, form=other)
        if pass_name == "training":
            forms["triton"] = trained(ours, "triton")
            forms[f"triton_{other}"] = trained(partial(ours, form=other), "triton")
    values = n * c * (shape.size**2 + out**2) + shape.width * c * c * k * k
    times = 3 if pass_name == "training" else 1
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: of(aten)(*(x.double() for x in t)),
        times * torch.finfo(kind).bits // 8 * values, times * 2 * n * c * c * k * k * out**2,
    )  # fmt: skip


def _shared(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    """grad_input with the gradients of the factors, which come with it."""
    kind, c, n, k = getattr(torch, dtype), shape.channels, shape.images, shape.kernel
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        grad, x = (random_map(n, c, size, kind, device) for size in (out, shape.size))
        weight = (torch.randn(shape.width, c, k, k, c, device=device) / (k * c**0.5)).to(kind).movedim(-1, 2)
        return grad, x, weight, *(torch.rand(n, *size, device=device).to(kind) for size in ((k, k), (shape.width,)))

    def aten(grad, *tensors):
        with torch.enable_grad():
            given = [t.detach().requires_grad_() for t in tensors]
            asked = [given[1]] if pass_name == "grad_weight" else [given[0], *given[2:]]
            x, weight, spatial, kernel = given
            found = torch.autograd.grad(n_fold.form(x, weight, spatial, kernel, *geometry), asked, grad)
        return found if pass_name == "grad_input" else found[0]

    forms: dict[str, Callable] = {"aten": aten}
    if unavailable_reason() is None:
        from . import triton_n_fold

        def ours(grad, x, weight, spatial, kernel, config=None):
            if pass_name == "grad_input":
                return triton_n_fold.grads(grad, x, weight, spatial, kernel, *geometry, config)
            return triton_n_fold.grad_weight(grad, x, (k, k), spatial, kernel, *geometry, config)

        forms["triton"] = ours
    values = n * c * (shape.size**2 + out**2) + shape.width * c * c * k * k
    return Work(
        shape, pass_name, dtype, make, forms, lambda *t: aten(*(x.double() for x in t)),
        torch.finfo(kind).bits // 8 * values, 2 * n * c * c * k * k * out**2,
    )  # fmt: skip


def _sampled(shape: Shape, pass_name: str, dtype: str, device: torch.device) -> Work:
    kind, c, n, k = getattr(torch, dtype), shape.channels, shape.images, shape.kernel
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1), 1)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        grad, x = (random_map(n, c, size, kind, device) for size in (out, shape.size))
        weight = (torch.randn(n, c, k, k, c, device=device) / (k * c**0.5)).to(kind).movedim(-1, 2)
        return (grad, weight) if pass_name == "grad_input" else (grad, x)

    def form(module) -> Callable:
        rest = (shape.size,) * 2 if pass_name == "grad_input" else (k, k)
        return lambda a, b, **options: getattr(module, pass_name)(a, b, rest, *geometry, **options)

    forms = {"aten": form(sampled)}
    if unavailable_reason() is None:
        from . import triton

        forms["triton"] = form(triton)
    values = n * (c * (shape.size**2 + out**2) + c * c * k * k)
    return Work(
        shape, pass_name, dtype, make, forms, lambda a, b: form(sampled)(a.double(), b.double()),
        torch.finfo(kind).bits // 8 * values, 2 * n * c * c * k * k * out**2,
    )  # fmt: skip
