"""Convolution with a kernel per sample as matrix products over the pixels of one image.

Nothing is unfolded: each step of a product reads the pixels that one tap meets. Kernels of samples are read fastest
where they lie as [N,C',Kh,Kw,C/g], channels next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl

from kernels import window_host
from kernels.geometry import Axis, forward_axis, gradient_axes
from kernels.launch import Launch, channels_inside, float32_precision, interpreted, power_of_two

Config = Mapping[str, int] | None


@triton.jit
def sampled_product(
    source_ptr,
    weight_ptr,
    out_ptr,
    source_image,
    weight_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    WEIGHT_GROUP: tl.constexpr,
    WEIGHT_INTO: tl.constexpr,
    WEIGHT_FROM: tl.constexpr,
    WEIGHT_TAP_H: tl.constexpr,
    WEIGHT_TAP_W: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    BASE_H: tl.constexpr,
    BASE_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    GROUPS: tl.constexpr,
    FROM: tl.constexpr,
    INTO: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[pixel, into] = sum over taps and `from` of source[pixel of the tap, from] * weight[into, from, tap].

    FROM and INTO: channels of a group. WIDE: multiply in the dtype of the sums, which the interpreter needs.
    """
    into_blocks: tl.constexpr = (INTO + BLOCK_INTO - 1) // BLOCK_INTO
    from_blocks: tl.constexpr = (FROM + BLOCK_FROM - 1) // BLOCK_FROM
    pixel_blocks: tl.constexpr = (OUT_H * OUT_W + BLOCK_PIXELS - 1) // BLOCK_PIXELS
    into = tl.program_id(0) % into_blocks * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[None, :]
    block = tl.program_id(0) // into_blocks
    pixels = block % pixel_blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    group = block // pixel_blocks % GROUPS
    image = (block // (pixel_blocks * GROUPS)).to(tl.int64)
    rows, cols = pixels // OUT_W, pixels % OUT_W
    real = pixels < OUT_H * OUT_W
    source_ptr += image * source_image + group * FROM
    weight_ptr += image * weight_image + group * WEIGHT_GROUP
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_INTO), ACC)
    for step in range(TAPS_H * TAPS_W * from_blocks):
        u, v = step // (from_blocks * TAPS_W), step // from_blocks % TAPS_W
        first = step % from_blocks * BLOCK_FROM  # pyright: ignore
        inner = first + tl.arange(0, BLOCK_FROM)
        source_rows = rows * STEP_H + BASE_H + u * REACH_H
        source_cols = cols * STEP_W + BASE_W + v * REACH_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        at = source_ptr + source_rows * SOURCE_ROW + source_cols * SOURCE_COL + inner[None, :]
        x = tl.load(at, mask=seen & (inner[None, :] < FROM), other=0.0)
        at = weight_ptr + u * WEIGHT_TAP_H + v * WEIGHT_TAP_W + inner[:, None] * WEIGHT_FROM + into * WEIGHT_INTO
        weight = tl.load(at, mask=(inner[:, None] < FROM) & (into < INTO), other=0.0)
        if WIDE:
            sums = tl.dot(x.to(ACC), weight.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(x, weight, sums, input_precision=PRECISION)
    at = out_ptr + image * out_image + rows * OUT_ROW + cols * OUT_COL + group * INTO + into
    tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=real & (into < INTO))


@triton.jit
def sampled_outer(
    source_ptr,
    grad_ptr,
    out_ptr,
    source_image,
    grad_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    GRAD_H: tl.constexpr,
    GRAD_W: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_COL: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    BASE_H: tl.constexpr,
    BASE_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    GROUPS: tl.constexpr,
    FROM: tl.constexpr,
    INTO: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[image, into, tap, from] = sum over the pixels of grad[pixel, into] * source[pixel of the tap, from].

    A program has one tap, and all pixels of one image in order.
    """
    into_blocks: tl.constexpr = (INTO + BLOCK_INTO - 1) // BLOCK_INTO
    from_blocks: tl.constexpr = (FROM + BLOCK_FROM - 1) // BLOCK_FROM
    inner = tl.program_id(0) % from_blocks * BLOCK_FROM + tl.arange(0, BLOCK_FROM)[None, :]
    block = tl.program_id(0) // from_blocks
    into = block % into_blocks * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[:, None]
    group = block // into_blocks % GROUPS
    image = (block // (into_blocks * GROUPS)).to(tl.int64)
    u, v = tl.program_id(1) // TAPS_W, tl.program_id(1) % TAPS_W
    source_ptr += image * source_image + group * FROM
    grad_ptr += image * grad_image + group * INTO
    sums = tl.zeros((BLOCK_INTO, BLOCK_FROM), ACC)
    for first in range(0, GRAD_H * GRAD_W, BLOCK_PIXELS):
        pixels = first + tl.arange(0, BLOCK_PIXELS)
        real = pixels < GRAD_H * GRAD_W
        rows, cols = pixels // GRAD_W, pixels % GRAD_W
        at = grad_ptr + rows[None, :] * GRAD_ROW + cols[None, :] * GRAD_COL + into
        grad = tl.load(at, mask=real[None, :] & (into < INTO), other=0.0)
        source_rows = rows * STEP_H + BASE_H + u * REACH_H
        source_cols = cols * STEP_W + BASE_W + v * REACH_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        at = source_ptr + source_rows[:, None] * SOURCE_ROW + source_cols[:, None] * SOURCE_COL + inner
        x = tl.load(at, mask=seen[:, None] & (inner < FROM), other=0.0)
        if WIDE:
            sums = tl.dot(grad.to(ACC), x.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(grad, x, sums, input_precision=PRECISION)
    filter = image * (GROUPS * INTO) + group * INTO + into
    at = out_ptr + (filter * (TAPS_H * TAPS_W) + tl.program_id(1)) * FROM + inner
    tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=(into < INTO) & (inner < FROM))


def forward(x, weight, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [N,C',C/g,Kh,Kw] -> [N,C',H',W'] channels_last."""
    x = channels_inside(x)
    axes = _axes(weight.shape[3:], stride, padding, dilation)
    size = [
        (h + 2 * p - d * (k - 1) - 1) // s + 1
        for h, k, s, p, d in zip(x.shape[2:], weight.shape[3:], stride, padding, dilation, strict=True)
    ]
    out = _map(x, weight.shape[1], size)
    if out.numel():
        product_launch(x, weight, out, axes, groups, config=config)()
    return out


def grad_input(grad, weight, size, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """grad [N,C',H',W'], weight [N,C',C/g,Kh,Kw] -> gradient of x [N,C,*size], channels_last."""
    grad = channels_inside(grad)
    out = _map(grad, weight.shape[2] * groups, size)
    for launch in grad_input_launches(grad, weight, out, stride, padding, dilation, groups, config):
        launch()
    return out


def grad_input_launches(
    grad, weight, out, stride, padding, dilation, groups, config: Config = None
) -> Iterator[Launch]:
    """A launch per phase of the stride that has pixels."""
    rows, cols = (
        gradient_axes(*geometry) for geometry in zip(weight.shape[3:], stride, padding, dilation, strict=True)
    )
    for row in rows:
        for col in cols:
            phase = out[:, :, row.start :: row.jump, col.start :: col.jump]
            if phase.numel():
                yield product_launch(grad, weight, phase, (row, col), groups, backward=True, config=config)


def grad_weight(grad, x, kernel_size, stride, padding, dilation, groups, config: Config = None) -> torch.Tensor:
    """grad [N,C',H',W'], x [N,C,H,W] -> gradient of the weight [N,C',C/g,*kernel_size], its channels together."""
    grad, x = channels_inside(grad), channels_inside(x)
    shape = (x.shape[0], grad.shape[1], *kernel_size, x.shape[1] // groups)
    out = torch.empty(shape, dtype=x.dtype, device=x.device).movedim(-1, 2)
    if out.numel():
        outer_launch(grad, x, out, _axes(kernel_size, stride, padding, dilation), groups, config)()
    return out


def product_launch(
    x, weight, out, axes: tuple[Axis, Axis], groups: int, backward: bool = False, config: Config = None
) -> Launch:
    """The windows of `axes` on `x` times weight [N,C',C/g,Kh,Kw], into `out`; `backward`: from C' to C."""
    into, inner = out.shape[1] // groups, x.shape[1] // groups
    default = _tile(x.dtype, BLOCK_PIXELS=out.shape[2] * out.shape[3], BLOCK_INTO=into, BLOCK_FROM=inner)
    tile, warps = window_host.block_tile(config, default)
    start = weight[:, :, :, axes[0].first_tap :, axes[1].first_tap :]
    per_filter, per_channel = weight.stride(1), weight.stride(2)
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants(axes),
        "WEIGHT_GROUP": weight.shape[1] // groups * per_filter,
        "WEIGHT_INTO": per_channel if backward else per_filter,
        "WEIGHT_FROM": per_filter if backward else per_channel,
        "WEIGHT_TAP_H": weight.stride(3) * axes[0].tap_step,
        "WEIGHT_TAP_W": weight.stride(4) * axes[1].tap_step,
        **_numbers(groups, inner, into, x.dtype),
        **tile,
    }
    arguments = {
        "source_ptr": x,
        "weight_ptr": start,
        "out_ptr": out,
        "source_image": x.stride(0),
        "weight_image": weight.stride(0),
        "out_image": out.stride(0),
    }
    pixel_blocks = -(-out.shape[2] * out.shape[3] // tile["BLOCK_PIXELS"])
    grid = (out.shape[0] * groups * pixel_blocks * -(-into // tile["BLOCK_INTO"]),)
    return Launch(sampled_product, grid, arguments, constants, warps)


def outer_launch(grad, x, out, axes: tuple[Axis, Axis], groups: int, config: Config = None) -> Launch:
    """The launch that fills `out` [N,C',C/g,Kh,Kw], whose channels lie together."""
    into, inner = grad.shape[1] // groups, x.shape[1] // groups
    # the sums run over pixels here
    default = _tile(x.dtype, BLOCK_FROM=inner, BLOCK_INTO=into, BLOCK_PIXELS=grad.shape[2] * grad.shape[3])
    tile, warps = window_host.block_tile(config, default)
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("GRAD", grad),
        **window_host.axis_constants(axes),
        **_numbers(groups, inner, into, x.dtype),
        **tile,
    }
    arguments = {
        "source_ptr": x,
        "grad_ptr": grad,
        "out_ptr": out,
        "source_image": x.stride(0),
        "grad_image": grad.stride(0),
    }
    blocks = -(-into // tile["BLOCK_INTO"]) * -(-inner // tile["BLOCK_FROM"])
    grid = (x.shape[0] * groups * blocks, axes[0].taps * axes[1].taps)
    return Launch(sampled_outer, grid, arguments, constants, warps)


def _axes(kernel_size, stride, padding, dilation) -> tuple[Axis, Axis]:
    rows, cols = (forward_axis(*geometry) for geometry in zip(kernel_size, stride, padding, dilation, strict=True))
    return rows, cols


def _tile(dtype: torch.dtype, **sizes: int) -> dict[str, int]:
    """Blocks of a matrix product, rows, columns and what is summed over, none much larger than what there is; warps."""
    most = (128, 128, 64) if dtype in (torch.float16, torch.bfloat16) else (64, 64, 32)
    tile = {
        name: max(16, min(limit, power_of_two(size))) for (name, size), limit in zip(sizes.items(), most, strict=True)
    }
    rows, columns, _ = tile.values()
    return tile | {"num_warps": 8 if rows * columns > 8192 else 4}


def _numbers(groups: int, inner: int, into: int, dtype: torch.dtype) -> dict:
    return {
        "GROUPS": groups,
        "FROM": inner,
        "INTO": into,
        "ACC": window_host.sum_dtype(dtype),
        "WIDE": interpreted() or dtype == torch.float64,
        "PRECISION": float32_precision(),
    }


def _map(x: torch.Tensor, channels: int, size) -> torch.Tensor:
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
