"""The work that `nas bench kernels` times: each pass of each shape, by our kernels and by every other form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nas.bench.cupy_involution import cupy_installed, involution_one_thread
from nas.bench.odconv import dynamic
from nas.bench.settings import forced
from nas.bench.work import Work, random_map, trained
from nas.kernels.average_pool2d import aten as pool_aten
from nas.kernels.conv2d import aten as convolution_aten
from nas.kernels.depthwise_conv2d import aten as depthwise_aten
from nas.kernels.global_filter import global_filter
from nas.kernels.global_filter import reference as filter_fft
from nas.kernels.gnconv_gate import aten as gate_aten
from nas.kernels.gnconv_recursion import apart as step_by_step
from nas.kernels.gnconv_recursion import gnconv_recursion
from nas.kernels.involution import aten as involution_aten
from nas.kernels.involution import reference as involution_unfold
from nas.kernels.launch import machine_obstacle
from nas.kernels.self_calibrated_gate import aten as calibrated_aten
from nas.kernels.shipped import Shape, recursion_widths
from nas.kernels.spanned_involution import apart, spanned_involution

PASSES = {
    "conv2d": ("forward", "activated", "joined"),
    "depthwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "involution": ("forward", "grad_input", "grad_weight"),
    "spanned_involution": ("forward", "training"),
    "gnconv_gate": ("forward",),
    "gnconv_recursion": ("forward", "training"),
    "global_filter": ("forward", "training"),
    "odconv2d": ("forward", "grad_input", "grad_weight", "training"),
    "average_pool2d": ("forward", "grad_input"),
    "self_calibrated_gate": ("forward", "grad_input"),
}
MATRIX_OPS = ("conv2d", "spanned_involution", "gnconv_gate", "gnconv_recursion", "odconv2d")
TINY = (
    Shape("depthwise_conv2d", 2, 8, 6, 3),
    Shape("involution", 2, 16, 6, 3),
    Shape("spanned_involution", 2, 16, 6, 3),
    Shape("average_pool2d", 2, 8, 9, 4, 4),
    Shape("self_calibrated_gate", 2, 8, 6, width=4),
    Shape("conv2d", 2, 8, 6, 3),
    Shape("odconv2d", 2, 8, 6, 3, width=2),
    Shape("odconv2d", 2, 8, 20, 3, width=2),
    Shape("global_filter", 6, 4, 6, 6),
    Shape("gnconv_recursion", 2, 16, 6, width=2),
    Shape("gnconv_gate", 2, 16, 6, width=8),
)


def works(shapes: tuple[Shape, ...], dtypes: tuple[str, ...], device: torch.device) -> Iterator[Work]:
    """Every pass of every shape, the first dtype first; matrix products in float32 with and without tf32."""
    for dtype in dtypes:
        for shape in shapes:
            for passing in PASSES[shape.op]:
                for tf32 in (False, True) if shape.op in MATRIX_OPS and dtype == "float32" else (False,):
                    yield replace(MAKERS[shape.op](shape, passing, dtype, device), tf32=tf32)


def _depthwise(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, k, c = getattr(torch, dtype), shape.kernel, shape.channels
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, 1.0)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (random_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        weight = torch.randn(c, 1, k, k, device=device).to(kind)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[passing]

    def form(module) -> Callable:
        rest = {"forward": (None, None), "grad_input": ((shape.size,) * 2,), "grad_weight": ((k, k),)}[passing]

        def run(a, b, **options):
            return getattr(module, passing)(a, b, *rest, *geometry, **options)

        return run

    aten = form(depthwise_aten)
    forms: dict[str, Callable] = {
        "channels_last": aten,
        "contiguous": lambda a, b: aten(a.contiguous(), b.contiguous()),
    }
    if machine_obstacle() is None:
        from nas.kernels.depthwise_conv2d import triton

        forms["triton"] = form(triton)
    width = torch.finfo(kind).bits // 8
    maps = shape.images * c * (shape.size**2 + out**2)
    return Work(
        shape, passing, dtype, make, forms, lambda a, b: aten(a.double(), b.double()),
        width * maps + width * c * k * k, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip


def _involution(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, k, c, groups = getattr(torch, dtype), shape.kernel, shape.channels, shape.channels // shape.width
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (random_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        dims = (shape.images, out, out, k, k, groups)
        weight = torch.randn(dims, device=device, dtype=kind).permute(0, 5, 4, 3, 1, 2)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[passing]

    def form(module) -> Callable:
        rest = {"forward": (), "grad_input": ((shape.size,) * 2,), "grad_weight": (groups, (k, k))}[passing]
        return lambda a, b: getattr(module, passing)(a, b, *rest, *geometry)

    forms = {"aten": form(involution_aten), "unfold": form(involution_unfold)}
    if machine_obstacle() is None:
        from nas.kernels.involution import triton

        def ours(a, b, config=None):
            if passing != "grad_weight":
                rest = {"forward": (), "grad_input": ((shape.size,) * 2,)}[passing]
                return getattr(triton, passing)(a, b, *rest, *geometry, config=config)
            dims = (shape.images, out, out, k, k, groups)
            target = torch.empty(dims, dtype=kind, device=device).permute(0, 5, 4, 3, 1, 2)
            return triton.grad_weight(a, b, target, *geometry, config=config)

        forms["triton"] = ours
    if passing == "forward" and cupy_installed():
        forms["cupy_one_thread"] = lambda a, b: involution_one_thread(a, b, *geometry)
    width = torch.finfo(kind).bits // 8
    values = shape.images * (c * (shape.size**2 + out**2) + groups * k * k * out**2)
    exact = form(involution_aten)
    return Work(
        shape, passing, dtype, make, forms, lambda a, b: exact(a.double(), b.double()),
        width * values, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip


def _gate(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, outer, inner, size = getattr(torch, dtype), shape.channels, shape.width, shape.size

    def make() -> tuple:
        y, a = (
            random_map(shape.images, inner, size, kind, device),
            random_map(shape.images, 2 * outer, size, kind, device)[:, outer:],
        )
        weight, bias = torch.randn(outer, inner, 1, 1, device=device), torch.randn(outer, device=device)
        return y, a, (weight / inner**0.5).to(kind), bias.to(kind)

    forms: dict[str, Callable] = {"aten": gate_aten.forward}
    if machine_obstacle() is None:
        from nas.kernels.gnconv_gate import triton

        forms["triton"] = triton.forward
    pixels = shape.images * size**2
    width = torch.finfo(kind).bits // 8
    return Work(
        shape, passing, dtype, make, forms, lambda *t: gate_aten.forward(*(x.double() for x in t)),
        width * (pixels * (inner + 2 * outer) + inner * outer), 2 * pixels * inner * outer,
    )  # fmt: skip


def _recursion(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
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

    of = trained if passing == "training" else lambda form: form
    forms: dict[str, Callable] = {"aten": of(step_by_step)}
    if machine_obstacle() is None:
        from nas.kernels.gnconv_recursion import triton

        def with_tile(y, a, out_weight, out_bias, *steps, config=None):
            return triton.forward(y, a, out_weight, out_bias, steps, config)

        forms["triton"] = trained(ours, "triton") if passing == "training" else with_tile
    pixels, values = shape.images * size**2, sum(inner * outer for inner, outer in pairs)
    times = 3 if passing == "training" else 1
    return Work(
        shape, passing, dtype, make, forms, lambda *t: of(step_by_step)(*(x.double() for x in t)),
        times * torch.finfo(kind).bits // 8 * (pixels * (sum(widths) + shape.channels) + values),
        times * 2 * pixels * values,
    )  # fmt: skip


def _filter(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    """The filter's own arithmetic is float32 in every dtype of the maps; no kernel of ours but the operation."""
    kind, n, c, size = getattr(torch, dtype), shape.images, shape.channels, shape.size

    def make() -> tuple:
        return random_map(n, c, size, kind, device), torch.randn(c, size, size // 2 + 1, 2, device=device)

    def by_fft(x, weight):
        return filter_fft.forward(x.to(weight.dtype), weight).to(x.dtype)

    of = trained if passing == "training" else lambda form: form
    times = 3 if passing == "training" else 1
    return Work(
        shape, passing, dtype, make, {"aten": of(global_filter), "fft": of(by_fft)},
        lambda *t: of(by_fft)(*(x.double() for x in t)),
        times * (torch.finfo(kind).bits // 8 * 2 * n * c * size**2 + 4 * c * size * (size + 2)),
        times * 2 * n * c * size**4,
    )  # fmt: skip


def _pooled(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, c, size, window = getattr(torch, dtype), shape.channels, shape.size, (shape.kernel,) * 2
    cells = size // shape.kernel

    def form(module) -> Callable:
        if passing == "forward":
            return partial(module.forward, window=window)
        return partial(module.grad_input, size=(size, size), window=window)

    forms: dict[str, Callable] = {"aten": form(pool_aten)}
    if machine_obstacle() is None:
        from nas.kernels.average_pool2d import triton

        forms["triton"] = form(triton)
    values = shape.images * c * (size**2 + cells**2)
    return Work(
        shape, passing, dtype,
        lambda: (random_map(shape.images, c, size if passing == "forward" else cells, kind, device),),
        forms, lambda t: form(pool_aten)(t.double()),
        torch.finfo(kind).bits // 8 * values, shape.images * c * size**2,
    )  # fmt: skip


def _calibrated(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, c, size = getattr(torch, dtype), shape.channels, shape.size
    cells = size // shape.width

    def make() -> tuple:
        grad, x, k3, k2 = (random_map(shape.images, c, s, kind, device) for s in (size, size, size, cells))
        return (x, k3, k2) if passing == "forward" else (grad, x, k3, k2)

    def form(module) -> Callable:
        return module.forward if passing == "forward" else module.grads

    forms: dict[str, Callable] = {"aten": form(calibrated_aten)}
    if machine_obstacle() is None:
        from nas.kernels.self_calibrated_gate import triton

        forms["triton"] = form(triton)
    maps, sums = (3, 1) if passing == "forward" else (5, 2)
    values = shape.images * c * (maps * size**2 + sums * cells**2)
    return Work(
        shape, passing, dtype, make, forms, lambda *t: form(calibrated_aten)(*(x.double() for x in t)),
        torch.finfo(kind).bits // 8 * values, maps * shape.images * c * size**2,
    )  # fmt: skip


def _convolution(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    """Alone, and as in inference with shift and ReLU behind it, without and with a residual."""
    kind, c, n, k = getattr(torch, dtype), shape.channels, shape.images, shape.kernel
    options = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1), 1)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        weight = (torch.randn(c, c, k, k, device=device) / (k * c**0.5)).to(kind)
        weight = weight.contiguous(memory_format=torch.channels_last)
        behind = [] if passing == "forward" else [torch.randn(c, device=device).to(kind)]
        if passing == "joined":
            behind.append(random_map(n, c, out, kind, device))
        return random_map(n, c, shape.size, kind, device), weight, *behind

    def run(form, x, weight, shift=None, residual=None, **more):
        activation = None if shift is None else "relu"
        return form(x, weight, None, None, shift, residual, *options, activation, **more)

    forms: dict[str, Callable] = {
        "channels_last": partial(run, convolution_aten.in_place),
        "contiguous": lambda x, *t: run(convolution_aten.in_place, x.contiguous(), *t),
    }
    if machine_obstacle() is None:
        from nas.kernels.conv2d import triton

        forms["triton"] = partial(run, triton.forward)
    if passing != "forward" and device.type == "cuda":
        stride, padding, dilation, groups = options

        def in_one(x, weight, shift, residual=None):
            if residual is None:
                return torch.ops.aten.cudnn_convolution_relu(x, weight, shift, stride, padding, dilation, groups)
            whole = torch.ops.aten.cudnn_convolution_add_relu
            return whole(x, weight, residual, 1.0, shift, stride, padding, dilation, groups)

        forms["cudnn_fused"] = in_one
    maps_out = 2 if passing == "joined" else 1
    values = n * c * (shape.size**2 + maps_out * out**2) + c * c * k * k
    return Work(
        shape, passing, dtype, make, forms,
        lambda *t: run(convolution_aten.forward, *(x.double() for x in t)),
        torch.finfo(kind).bits // 8 * values, 2 * n * c * c * k * k * out**2,
    )  # fmt: skip


def _spanned(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
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

    of = trained if passing == "training" else lambda form: form
    forms: dict[str, Callable] = {"aten": of(lambda *t: apart(*t, **options)), "unfold": of(unfolded)}
    if machine_obstacle() is None:
        from nas.kernels.spanned_involution import triton

        def with_tile(*tensors, config=None):
            return triton.forward(*tensors, **options, config=config)

        forms["triton"] = trained(ours, "triton") if passing == "training" else with_tile
    pixels = shape.images * size**2
    bytes_min = torch.finfo(kind).bits // 8 * (pixels * (2 * c + width) + groups * k * k * width)
    times = 3 if passing == "training" else 1
    return Work(
        shape, passing, dtype, make, forms, lambda *t: of(unfolded)(*(x.double() for x in t)),
        times * bytes_min, times * 2 * pixels * (groups * k * k * width + c * k * k),
    )  # fmt: skip


MAKERS = {
    "depthwise_conv2d": _depthwise,
    "involution": _involution,
    "spanned_involution": _spanned,
    "gnconv_gate": _gate,
    "gnconv_recursion": _recursion,
    "global_filter": _filter,
    "conv2d": _convolution,
    "odconv2d": dynamic,
    "average_pool2d": _pooled,
    "self_calibrated_gate": _calibrated,
}
