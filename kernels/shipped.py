"""The launches that users meet: maps of RedNet, HorNet and MobileNetV2 at 224 pixels, and small ones.

Tensors are on the meta device: shapes and strides without memory. For ahead-of-time reports, and as the cases that the
benchmark measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .launch import Launch, accumulator

CONVOLUTIONS = ("conv2d", "odconv2d")


@dataclass(frozen=True)
class Shape:
    """One call: a square map.

    `width`: channels per group of involution, inner width of gnConv's step, steps of its recursion, pooling window of
    the self-calibrated gate, number of kernels of dynamic convolution.
    """

    op: str
    images: int
    channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    width: int = 16

    @property
    def name(self) -> str:
        kernel = f" K={self.kernel}" if self.kernel > 1 or self.op in CONVOLUTIONS else f" from {self.width}"
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.op} {self.images}x{self.channels}x{self.size}x{self.size}{kernel}{stride}"


SHAPES = (
    Shape("depthwise_conv2d", 128, 96, 56, 7),
    Shape("depthwise_conv2d", 128, 224, 28, 7),
    Shape("depthwise_conv2d", 128, 480, 14, 7),
    Shape("depthwise_conv2d", 128, 992, 7, 7),
    Shape("depthwise_conv2d", 128, 96, 56, 3),
    Shape("depthwise_conv2d", 128, 144, 56, 3, 2),
    Shape("depthwise_conv2d", 128, 384, 14, 5),
    Shape("depthwise_conv2d", 128, 48, 8, 7),
    Shape("involution", 128, 64, 56, 7),
    Shape("involution", 128, 128, 28, 7),
    Shape("involution", 128, 256, 14, 7),
    Shape("involution", 128, 512, 7, 7),
    Shape("involution", 128, 128, 56, 7, 2),
    Shape("involution", 128, 32, 112, 3),
    Shape("involution", 128, 32, 8, 3),
    Shape("spanned_involution", 128, 64, 56, 7),
    Shape("spanned_involution", 128, 128, 28, 7),
    Shape("spanned_involution", 128, 256, 14, 7),
    Shape("spanned_involution", 128, 512, 7, 7),
    Shape("spanned_involution", 128, 32, 8, 3),
    Shape("gnconv_gate", 128, 64, 56, width=32),
    Shape("gnconv_gate", 128, 128, 28, width=64),
    Shape("gnconv_gate", 128, 256, 14, width=128),
    Shape("gnconv_gate", 128, 512, 7, width=256),
    Shape("gnconv_gate", 128, 32, 8, width=16),
    Shape("gnconv_recursion", 128, 64, 56, width=1),
    Shape("gnconv_recursion", 128, 128, 28, width=2),
    Shape("gnconv_recursion", 128, 32, 8, width=2),
    Shape("global_filter", 128, 240, 14, 14),
    Shape("global_filter", 128, 496, 7, 7),
    Shape("conv2d", 128, 64, 56, 3),
    Shape("conv2d", 128, 128, 56, 3, 2),
    Shape("conv2d", 128, 256, 14, 3),
    Shape("conv2d", 128, 512, 7, 3),
    Shape("conv2d", 128, 256, 56, 1),
    Shape("conv2d", 128, 1024, 14, 1),
    Shape("odconv2d", 128, 64, 56, 3, width=4),
    Shape("odconv2d", 128, 128, 28, 3, width=4),
    Shape("odconv2d", 128, 256, 14, 3, width=4),
    Shape("odconv2d", 128, 512, 7, 3, width=4),
    Shape("odconv2d", 128, 256, 14, 3, 2, width=4),
    Shape("odconv2d", 2, 512, 7, 3, width=4),
    Shape("odconv2d", 128, 128, 56, 3, 2, width=4),
    Shape("odconv2d", 128, 256, 14, 1, width=4),
    Shape("odconv2d", 128, 32, 8, 3, width=4),
    Shape("average_pool2d", 128, 32, 56, 4, 4),
    Shape("average_pool2d", 128, 64, 28, 4, 4),
    Shape("average_pool2d", 128, 128, 14, 4, 4),
    Shape("average_pool2d", 128, 256, 7, 4, 4),
    Shape("self_calibrated_gate", 128, 32, 56, width=4),
    Shape("self_calibrated_gate", 128, 64, 28, width=4),
    Shape("self_calibrated_gate", 128, 128, 14, width=4),
    Shape("self_calibrated_gate", 128, 256, 7, width=4),
)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    """(pass, launch, trips of its loop) of every kernel that forward and backward of `shape` run."""
    return _LAUNCHES[shape.op](shape, dtype)


def _depthwise(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .depthwise_conv2d import triton
    from .geometry import forward_axis

    x, out = _maps(shape, dtype)
    stride, padding = (shape.stride,) * 2, (shape.kernel // 2,) * 2
    packed = torch.empty(shape.kernel, shape.kernel, shape.channels, dtype=accumulator(dtype), device="meta")
    axis = forward_axis(shape.kernel, shape.stride, shape.kernel // 2)
    bias = torch.empty(shape.channels, dtype=dtype, device="meta")
    yield "forward", triton.window_launch(x, packed, bias, None, out, (axis, axis), 1 / 3), shape.kernel
    gate = out[:, : shape.channels // 3]
    yield "gated forward", triton.window_launch(x, packed, bias, gate, out, (axis, axis), 1 / 3), shape.kernel
    for launch in triton.grad_input_launches(out, packed, x, stride, padding, 1 / 3):
        yield "grad_input", launch, launch.constants["TAPS_W"]
    yield "grad_weight", triton.grad_weight_launch(out, x, (axis, axis))[0], 1


def _involution(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .involution import triton

    x, out = _maps(shape, dtype)
    size, groups = out.shape[2:], shape.channels // shape.width
    dims = (shape.images, *size, shape.kernel, shape.kernel, groups)
    weight = torch.empty(dims, dtype=dtype, device="meta").permute(0, 5, 4, 3, 1, 2)
    geometry = ((shape.stride,) * 2, (shape.kernel // 2,) * 2, (1, 1))
    yield "forward", triton.forward_launch(x, weight, out, *geometry), shape.kernel
    for launch in triton.grad_input_launches(out, weight, x, *geometry):
        yield "grad_input", launch, launch.constants["TAPS_W"]
    yield "grad_weight", triton.grad_weight_launch(out, x, weight, *geometry), shape.kernel


def _spanned(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .spanned_involution import triton

    x, out = _maps(shape, dtype)
    k, groups, width = shape.kernel, shape.channels // shape.width, max(1, shape.channels // 4)
    features = torch.empty(shape.images, *out.shape[2:], width, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    rows = torch.empty(k, k, width, groups, dtype=dtype, device="meta")
    bias = torch.empty(k, k, groups, dtype=torch.float32, device="meta")
    stride, padding = (shape.stride,) * 2, (k // 2,) * 2
    yield "forward", triton.spanned_launch(x, features, rows, bias, out, stride, padding, (1, 1)), k * k


def _gate(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .gnconv_gate import triton

    pixels = shape.images * shape.size**2
    y = torch.empty(pixels, shape.width, dtype=dtype, device="meta")
    # a slice of the channels of all steps
    a = torch.empty(pixels, 2 * shape.channels, dtype=dtype, device="meta")[:, shape.channels :]
    weight = torch.empty(shape.channels, shape.width, dtype=dtype, device="meta")
    bias = torch.empty(shape.channels, dtype=dtype, device="meta")
    launch = triton.gate_launch(y, a, weight, bias, torch.empty_like(a, memory_format=torch.contiguous_format))
    yield "forward", launch, -(-shape.width // launch.constants["BLOCK_INNER"])


def recursion_widths(shape: Shape) -> list[int]:
    """Channels before the first step and after each: halves of the next."""
    return [shape.channels >> (shape.width - i) for i in range(shape.width + 1)]


def _recursion(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .gnconv_recursion import triton

    pixels, widths = shape.images * shape.size**2, recursion_widths(shape)
    all_steps = torch.empty(pixels, sum(widths), dtype=dtype, device="meta")
    y = torch.empty(pixels, widths[0], dtype=dtype, device="meta")
    out = torch.empty(pixels, shape.channels, dtype=dtype, device="meta")
    sizes = zip((*widths[1:], shape.channels), widths, strict=True)
    weights = [torch.empty(size, dtype=dtype, device="meta") for size in sizes]
    biases = [weight[:, 0].contiguous() for weight in weights]
    steps = [t for pair in zip(weights[:-1], biases[:-1], strict=True) for t in pair]
    launch = triton.recursion_launch(y, all_steps[:, widths[0] :], weights[-1], biases[-1], steps, out)
    yield "forward", launch, -(-shape.channels // launch.constants["BLOCK_OUT"])


def _convolution(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .geometry import forward_axis
    from .product import product_launch

    x, out = _maps(shape, dtype)
    c, k = shape.channels, shape.kernel
    weight = torch.empty(1, c, k, k, c, dtype=dtype, device="meta").movedim(-1, 2)
    shift = torch.empty(c, dtype=dtype, device="meta")
    axis = forward_axis(k, shape.stride, k // 2)
    launch = product_launch(x, weight, out, (axis, axis), 1)
    yield "forward", launch, _steps(launch)
    for passing, residual in (("activated", None), ("joined", out)):
        launch = product_launch(x, weight, out, (axis, axis), 1, shift=shift, residual=residual, activation="relu")
        yield passing, launch, _steps(launch)


def _dynamic(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .geometry import forward_axis
    from .odconv2d import triton, triton_mixing, triton_n_fold
    from .odconv2d.aten import cheaper_form

    x, out = _maps(shape, dtype)
    n, c, k = shape.images, shape.channels, shape.kernel
    packed = torch.empty(shape.width, c, k * k * c, dtype=dtype, device="meta")
    lengths = (shape.width, c, k * k * c)
    kernel, rows, columns = (torch.empty(n, length, dtype=dtype, device="meta") for length in lengths)
    mixed = torch.empty(n, c, k * k * c, dtype=dtype, device="meta")
    mixing = triton_mixing.mix_launch(packed, kernel, rows, columns, mixed)
    yield "kernels", mixing, mixing.constants["IMAGES"]
    mixing, _ = triton_mixing.mix_grads_launch(mixed, packed, kernel, rows, columns)
    yield "kernels' gradients", mixing, mixing.constants["IMAGES"]
    weight = mixed.view(n, c, k, k, c).movedim(-1, 2)
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    axis = forward_axis(k, shape.stride, k // 2)
    launch = triton.product_launch(x, weight, out, (axis, axis), 1)
    yield "forward", launch, _steps(launch)
    for launch in triton.grad_input_launches(out, weight, x, *geometry, 1):
        yield "grad_input", launch, _steps(launch)
    launch = triton.outer_launch(out, x, weight, (axis, axis), 1)
    yield "grad_weight", launch, -(-out.shape[2] * out.shape[3] // launch.constants["BLOCK_PIXELS"])
    shared = packed.view(shape.width, c, k, k, c).movedim(-1, 2)
    if cheaper_form("cuda", x.shape, shared.shape, *geometry, 1) != "n_fold":
        return
    factors = torch.empty(n, shape.width, k, k, dtype=accumulator(dtype), device="meta")
    launch = triton_n_fold.folded_launch(x, shared, factors, out, (axis, axis))
    yield "n_fold forward", launch, _steps(launch)
    for launch, *_ in triton_n_fold.grads_launches(out, x, shared, factors, x, *geometry):
        yield "n_fold grads", launch, _steps(launch)
    launch = triton_n_fold.outer_launch(out, x, factors, shared, (axis, axis))
    pixels = n * out.shape[2] * out.shape[3]
    yield "n_fold grad_weight", launch, -(-pixels // launch.constants["BLOCK_PIXELS"])


def _steps(launch: Launch) -> int:
    """Trips of the loop of a sampled product."""
    sizes = launch.constants
    return sizes["TAPS_H"] * sizes["TAPS_W"] * -(-sizes["FROM"] // sizes["BLOCK_FROM"]) * sizes.get("KERNELS", 1)


def _calibrated(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .self_calibrated_gate import triton

    x, out = _maps(shape, dtype)
    cells = shape.size // shape.width
    k2 = torch.empty(shape.images, cells, cells, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    for passing, backward in (("forward", None), ("grad_input", (x, x, k2))):
        launch = triton.gate_launch(x, x, k2, out, backward)
        yield passing, launch, launch.constants["WINDOW_H"]


def _pooled(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    from .average_pool2d import triton

    x, _ = _maps(shape, dtype)
    cells, window = shape.size // shape.kernel, (shape.kernel,) * 2
    coarse = torch.empty(shape.images, cells, cells, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
    for passing, backward in (("forward", False), ("grad_input", True)):
        yield passing, triton.pool_launch(x, coarse, window, backward), shape.kernel


def _maps(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    out_size = (shape.size - 1) // shape.stride + 1
    x, out = (
        torch.empty(shape.images, size, size, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
        for size in (shape.size, out_size)
    )
    return x, out


_LAUNCHES = {
    "depthwise_conv2d": _depthwise,
    "involution": _involution,
    "spanned_involution": _spanned,
    "gnconv_gate": _gate,
    "gnconv_recursion": _recursion,
    "conv2d": _convolution,
    "odconv2d": _dynamic,
    "global_filter": lambda *_: iter(()),  # products of matrices, by PyTorch's
    "average_pool2d": _pooled,
    "self_calibrated_gate": _calibrated,
}
