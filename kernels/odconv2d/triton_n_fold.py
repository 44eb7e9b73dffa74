"""All n shared kernels on all samples: products over the pixels of all images, each scaled by its sample's factors.

No kernel of a sample exists. The backward pass towards the input is the same kernel with the ends of the weight
exchanged; what the factors' gradients need is summed, pixel by pixel, while each product is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl

from .._core.geometry import Axis, gradient_axes, out_size
from .._core.launch import Launch, multiprocessors
from .._core.prepared import start
from .._core.tensors import accumulator, channels_inside, new_map
from .._triton import window_host
from .._triton.product import forward_axes, product_constants, product_tile

Config = Mapping[str, int] | None
RESIDENT = 2  # programs of the weight's gradient on a multiprocessor, at least


@triton.jit
def folded_product(
    source_ptr,
    weight_ptr,
    factor_ptr,
    other_ptr,
    partial_ptr,
    out_ptr,
    images,
    source_image,
    other_image,
    out_image,
    SOURCE_H: tl.constexpr,
    SOURCE_W: tl.constexpr,
    SOURCE_ROW: tl.constexpr,
    SOURCE_COL: tl.constexpr,
    OTHER_ROW: tl.constexpr,
    OTHER_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    WEIGHT_KERNEL: tl.constexpr,
    WEIGHT_INTO: tl.constexpr,
    WEIGHT_FROM: tl.constexpr,
    WEIGHT_TAP_H: tl.constexpr,
    WEIGHT_TAP_W: tl.constexpr,
    FACTOR_IMAGE: tl.constexpr,
    FACTOR_KERNEL: tl.constexpr,
    FACTOR_TAP_H: tl.constexpr,
    FACTOR_TAP_W: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    BASE_H: tl.constexpr,
    BASE_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    KERNELS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[pixel, into] = sum over taps and kernels m of factor[image, m, tap] * product[m, tap][pixel, into],

    product = sum over `from` of source[pixel of the tap, from] * weight[m, into, from, tap]. Where there is another map
    of the shape of out, partial[tap, m, block of into, pixel] = sum over the block of other * product.
    """
    into_blocks: tl.constexpr = (C_OUT + BLOCK_INTO - 1) // BLOCK_INTO
    into_block = tl.program_id(0) % into_blocks
    into = into_block * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[None, :]
    pixel_numbers = (tl.program_id(0) // into_blocks).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)[:, None]
    image, pixels = pixel_numbers // (OUT_H * OUT_W), (pixel_numbers % (OUT_H * OUT_W)).to(tl.int32)
    real = image < images
    valid = real & (into < C_OUT)
    rows, cols = pixels // OUT_W, pixels % OUT_W
    sums = tl.zeros((BLOCK_PIXELS, BLOCK_INTO), ACC)
    other = sums
    if other_ptr is not None:
        other_at = other_ptr + image * other_image + rows * OTHER_ROW + cols * OTHER_COL + into
        other = tl.load(other_at, mask=valid, other=0.0).to(ACC)
    for pair in range(TAPS_H * TAPS_W * KERNELS):
        u, v = pair // (KERNELS * TAPS_W), pair // KERNELS % TAPS_W
        m = pair % KERNELS  # pyright: ignore
        source_rows = rows * STRIDE_H + BASE_H + u * DILATION_H
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        source_at = source_ptr + image * source_image + source_rows * SOURCE_ROW + source_cols * SOURCE_COL
        weight_at = weight_ptr + m * WEIGHT_KERNEL + u * WEIGHT_TAP_H + v * WEIGHT_TAP_W + into * WEIGHT_INTO
        product = tl.zeros((BLOCK_PIXELS, BLOCK_INTO), ACC)
        for first in range(0, C_IN, BLOCK_FROM):
            inner = first + tl.arange(0, BLOCK_FROM)
            x = tl.load(source_at + inner[None, :], mask=seen & (inner[None, :] < C_IN), other=0.0)
            valid_weight = (inner[:, None] < C_IN) & (into < C_OUT)
            weight = tl.load(weight_at + inner[:, None] * WEIGHT_FROM, mask=valid_weight, other=0.0)
            if WIDE:
                product = tl.dot(x.to(ACC), weight.to(ACC), product, input_precision=PRECISION, out_dtype=ACC)
            else:
                product = tl.dot(x, weight, product, input_precision=PRECISION)
        factor_at = factor_ptr + image * FACTOR_IMAGE + m * FACTOR_KERNEL + u * FACTOR_TAP_H + v * FACTOR_TAP_W
        sums += tl.load(factor_at, mask=real, other=0.0) * product
        if other_ptr is not None:
            of_pair = tl.cast(pair * into_blocks + into_block, tl.int64) * images * (OUT_H * OUT_W)
            tl.store(partial_ptr + of_pair + pixel_numbers, tl.sum(product * other, 1)[:, None], mask=real)  # pyright: ignore
    at = out_ptr + image * out_image + rows * OUT_ROW + cols * OUT_COL + into
    tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit
def folded_outer(
    source_ptr,
    grad_ptr,
    factor_ptr,
    out_ptr,
    images,
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
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    KERNELS: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_INTO: tl.constexpr,
    BLOCK_FROM: tl.constexpr,
):
    """out[part, m, into, tap, from] = sum over the part's pixels of factor[image, m, tap] * grad[pixel, into] *
    source[pixel of the tap, from], in a fixed order: a program has one kernel and tap, and every PARTS-th block.
    """
    from_blocks: tl.constexpr = (C_IN + BLOCK_FROM - 1) // BLOCK_FROM
    inner = tl.program_id(0) % from_blocks * BLOCK_FROM + tl.arange(0, BLOCK_FROM)[None, :]
    into = tl.program_id(0) // from_blocks * BLOCK_INTO + tl.arange(0, BLOCK_INTO)[:, None]
    tap, m = tl.program_id(1) // KERNELS, tl.program_id(1) % KERNELS
    u, v = tap // TAPS_W, tap % TAPS_W
    part = tl.program_id(2)
    factor_ptr += m * (TAPS_H * TAPS_W) + tap
    sums = tl.zeros((BLOCK_INTO, BLOCK_FROM), ACC)
    for first in range(part * BLOCK_PIXELS, images * GRAD_H * GRAD_W, PARTS * BLOCK_PIXELS):
        pixel_numbers = first + tl.arange(0, BLOCK_PIXELS)
        image, pixels = (pixel_numbers // (GRAD_H * GRAD_W)).to(tl.int64), pixel_numbers % (GRAD_H * GRAD_W)
        real = image < images
        rows, cols = pixels // GRAD_W, pixels % GRAD_W
        grad_at = grad_ptr + image * grad_image + rows * GRAD_ROW + cols * GRAD_COL
        grad = tl.load(grad_at[None, :] + into, mask=real[None, :] & (into < C_OUT), other=0.0).to(ACC)
        grad *= tl.load(factor_ptr + image * (KERNELS * TAPS_H * TAPS_W), mask=real, other=0.0)[None, :]
        source_rows = rows * STRIDE_H + BASE_H + u * DILATION_H
        source_cols = cols * STRIDE_W + BASE_W + v * DILATION_W
        seen = real & (source_rows >= 0) & (source_rows < SOURCE_H) & (source_cols >= 0) & (source_cols < SOURCE_W)
        source_at = source_ptr + image * source_image + source_rows * SOURCE_ROW + source_cols * SOURCE_COL
        x = tl.load(source_at[:, None] + inner, mask=seen[:, None] & (inner < C_IN), other=0.0)
        if WIDE:
            sums = tl.dot(grad, x.to(ACC), sums, input_precision=PRECISION, out_dtype=ACC)
        else:
            sums = tl.dot(grad.to(x.dtype), x, sums, input_precision=PRECISION)
    at = out_ptr + (((part * KERNELS + m) * C_OUT + into) * (TAPS_H * TAPS_W) + tap).to(tl.int64) * C_IN + inner
    tl.store(at, sums.to(out_ptr.dtype.element_ty), mask=(into < C_OUT) & (inner < C_IN))


def forward(x, weight, spatial, kernel, stride, padding, dilation, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [n,C',C,Kh,Kw], spatial [N,Kh,Kw], kernel [N,n] -> [N,C',H',W'] channels_last."""
    x = channels_inside(x)
    size = out_size(x.shape, weight.shape, stride, padding, dilation)
    out = new_map(x, weight.shape[1], size)
    if out.numel():
        axes = forward_axes(weight.shape[3:], stride, padding, dilation)
        of_pairs = factors(spatial, kernel, x.dtype)
        start(folded_launch, x, weight, of_pairs, out, axes, False, None, None, config)
    return out


def grads(
    grad, x, weight, spatial, kernel, stride, padding, dilation, config: Config = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """grad [N,C',H',W'] -> the gradients of x, spatial and kernel, each in its dtype."""
    grad, x = channels_inside(grad), channels_inside(x)
    out = new_map(x, x.shape[1], x.shape[2:])
    of_pairs = factors(spatial, kernel, x.dtype)
    found = torch.zeros_like(of_pairs)
    if out.numel():
        geometry = (stride, padding, dilation)
        started = start(grads_launches, grad, x, weight, of_pairs, out, *geometry, config)
        for made, (row, col) in zip(started, _phases(out, weight, *geometry), strict=True):
            if made:
                # [N,n,Kh,Kw] of [Kh,Kw,n,blocks,N,pixels], whose taps run backwards
                partial = made["partial_ptr"].sum((3, 5)).permute(3, 2, 0, 1).flip((2, 3))
                found[:, :, _met(row), _met(col)] = partial
    of_spatial = (found * kernel[:, :, None, None]).sum(1)
    of_kernel = (found * spatial[:, None]).sum((2, 3))
    return out, of_spatial.to(spatial.dtype), of_kernel.to(kernel.dtype)


def grads_launches(
    grad, x, weight, of_pairs, out, stride, padding, dilation, config: Config = None
) -> Iterator[Launch]:
    """A launch per phase of the stride that has pixels; where it has taps it makes its part of the factors'
    gradients."""
    for row, col in _phases(out, weight, stride, padding, dilation):
        phase, other = (t[:, :, row.start :: row.jump, col.start :: col.jump] for t in (out, x))
        partial = None
        if row.taps and col.taps:
            blocks = -(-x.shape[1] // _tile(grad.dtype, phase, weight.shape[1], True, config)[0]["BLOCK_INTO"])
            sizes = (row.taps, col.taps, len(weight), blocks, len(x), phase.shape[2] * phase.shape[3])
            partial = torch.empty(sizes, dtype=of_pairs.dtype, device=x.device)
        other = None if partial is None else other
        yield folded_launch(grad, weight, of_pairs, phase, (row, col), True, other, partial, config)


def _phases(out, weight, stride, padding, dilation) -> list[tuple[Axis, Axis]]:
    """The windows of the input's gradient, by the phases of the stride that have pixels in `out`."""
    geometry = zip(weight.shape[3:], stride, padding, dilation, out.shape[2:], strict=True)
    rows, cols = ([axis for axis in gradient_axes(*options) if axis.start < size] for *options, size in geometry)
    return [(row, col) for row in rows for col in cols]


def grad_weight(grad, x, kernel_size, spatial, kernel, stride, padding, dilation, config: Config = None):
    """grad [N,C',H',W'], x [N,C,H,W] -> gradient of the weight [n,C',C,*kernel_size], its channels together."""
    grad, x = channels_inside(grad), channels_inside(x)
    if not grad.numel():
        shape = (kernel.shape[1], grad.shape[1], *kernel_size, x.shape[1])
        return torch.zeros(shape, dtype=x.dtype, device=x.device).movedim(-1, 2)
    axes = forward_axes(kernel_size, stride, padding, dilation)
    (made,) = start(outer_launch, grad, x, factors(spatial, kernel, x.dtype), axes, config)
    parts = made["out_ptr"]
    return (parts[0] if len(parts) == 1 else parts.sum(0).to(x.dtype)).movedim(-1, 2)


def factors(spatial, kernel, dtype: torch.dtype) -> torch.Tensor:
    """spatial [N,Kh,Kw], kernel [N,n] -> [N,n,Kh,Kw] in the dtype of sums of `dtype`."""
    spatial, kernel = (t.to(accumulator(dtype)) for t in (spatial, kernel))
    return (kernel[:, :, None, None] * spatial[:, None]).contiguous()


def folded_launch(
    x, weight, of_pairs, out, axes: tuple[Axis, Axis], backward: bool = False, other: torch.Tensor | None = None,
    partial: torch.Tensor | None = None, config: Config = None,
) -> Launch:  # fmt: skip
    """The windows of `axes` on `x` times weight [n,C',C,Kh,Kw] and factors [N,n,Kh,Kw], into `out`.

    `backward`: from C' to C. `partial` [taps,n,blocks,pixels of out]: the products with `other`, a map like `out`.
    """
    tile, warps = _tile(x.dtype, out, x.shape[1], backward, config)
    starts = [t[..., axes[0].first_tap :, axes[1].first_tap :] for t in (weight, of_pairs)]
    per_filter, per_channel = weight.stride(1), weight.stride(2)
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("OUT", out),
        **window_host.axis_constants(axes),
        "OTHER_ROW": 0 if other is None else other.stride(2),
        "OTHER_COL": 0 if other is None else other.stride(3),
        "WEIGHT_KERNEL": weight.stride(0),
        "WEIGHT_INTO": per_channel if backward else per_filter,
        "WEIGHT_FROM": per_filter if backward else per_channel,
        "WEIGHT_TAP_H": weight.stride(3) * axes[0].tap_step,
        "WEIGHT_TAP_W": weight.stride(4) * axes[1].tap_step,
        "FACTOR_IMAGE": of_pairs.stride(0),
        "FACTOR_KERNEL": of_pairs.stride(1),
        "FACTOR_TAP_H": of_pairs.stride(2) * axes[0].tap_step,
        "FACTOR_TAP_W": of_pairs.stride(3) * axes[1].tap_step,
        **_constants(x, out, len(weight)),
        **tile,
    }
    arguments = {
        "source_ptr": x,
        "weight_ptr": starts[0],
        "factor_ptr": starts[1],
        "other_ptr": other,
        "partial_ptr": partial,
        "out_ptr": out,
        "images": out.shape[0],
        "source_image": x.stride(0),
        "other_image": 0 if other is None else other.stride(0),
        "out_image": out.stride(0),
    }
    pixels = out.shape[0] * out.shape[2] * out.shape[3]
    grid = (-(-pixels // tile["BLOCK_PIXELS"]) * -(-out.shape[1] // tile["BLOCK_INTO"]),)
    made = () if partial is None else ("partial_ptr",)
    return Launch(folded_product, grid, arguments, constants, warps, made=made)


def outer_launch(grad, x, of_pairs, axes: tuple[Axis, Axis], config: Config = None) -> Launch:
    """The launch, which makes [parts,n,C',Kh,Kw,C]: the gradient, in the dtype of x if there is one part alone."""
    into, inner, taps = grad.shape[1], x.shape[1], (axes[0].taps, axes[1].taps)
    pixels = grad.shape[0] * grad.shape[2] * grad.shape[3]
    # the sums run over pixels here
    default = product_tile(x.dtype, BLOCK_FROM=inner, BLOCK_INTO=into, BLOCK_PIXELS=pixels)
    tile, warps = window_host.block_tile(config, default)
    blocks = -(-into // tile["BLOCK_INTO"]) * -(-inner // tile["BLOCK_FROM"])
    programs = math.prod(taps) * of_pairs.shape[1]
    parts = max(1, min(RESIDENT * multiprocessors() // (blocks * programs), -(-pixels // tile["BLOCK_PIXELS"])))
    constants = {
        **window_host.map_constants("SOURCE", x),
        **window_host.map_constants("GRAD", grad),
        **window_host.axis_constants(axes),
        **_constants(x, grad, of_pairs.shape[1]),
        "PARTS": parts,
        **tile,
    }
    dtype = x.dtype if parts == 1 else accumulator(x.dtype)
    out = torch.empty((parts, of_pairs.shape[1], into, *taps, inner), dtype=dtype, device=x.device)
    arguments = {
        "source_ptr": x,
        "grad_ptr": grad,
        "factor_ptr": of_pairs,
        "out_ptr": out,
        "images": x.shape[0],
        "source_image": x.stride(0),
        "grad_image": grad.stride(0),
    }
    return Launch(folded_outer, (blocks, programs, parts), arguments, constants, warps, made=("out_ptr",))


def _tile(
    dtype: torch.dtype, out: torch.Tensor, inner: int, backward: bool, config: Config
) -> tuple[dict[str, int], int]:
    """Tile and warps of a product whose program keeps two blocks of values, `backward` three; larger ones spill."""
    half = dtype in (torch.float16, torch.bfloat16)
    pixels = out.shape[0] * out.shape[2] * out.shape[3]
    most = 32 if backward and not half else pixels
    into = min(out.shape[1], 64 if half else 32)
    tile = product_tile(dtype, BLOCK_PIXELS=min(most, pixels), BLOCK_INTO=into, BLOCK_FROM=min(inner, 32))
    return window_host.block_tile(config, tile | {"num_warps": 8 if tile["BLOCK_PIXELS"] == 128 else 4})


def _constants(x, out, num_kernels: int) -> dict:
    """What a dense product is told, and how many kernels there are."""
    dense = product_constants(1, x.shape[1], out.shape[1], x.dtype)
    del dense["GROUPS"]
    return dense | {"KERNELS": num_kernels}


def _met(axis: Axis) -> slice:
    """The entries of the filter that a gradient's windows meet, in ascending order."""
    return slice(axis.first_tap + (axis.taps - 1) * axis.tap_step, axis.first_tap + 1, -axis.tap_step)
