# pyright: reportGeneralTypeIssues=false, reportArgumentType=false
"""Global filter: a program has some channels of one image, transforms rows and columns, multiplies, transforms back.

On maps of some 200 pixels a transform is a product with a small matrix of cosines and sines: x is read once, the result
is written once, and nothing of the spectrum reaches memory. The gradient of the map is the same kernel with the
conjugate of the weight; that of the weight has a kernel of its own, which sums over images in parts of fixed size and
order: the same bits at every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, multiprocessors, power_of_two
from .._core.prepared import start
from .._core.tensors import channels_inside, new_map
from .._triton import window_host
from .reference import multiplicity

Config = Mapping[str, int] | None
SIDES = {(3, 9): 8, (0, 0): 16}  # at least, of what a matrix product sums over, by version of triton
SMALL = 64  # pixels of a program's map, whose products are fewer instructions by multiply-adds than on matrix units
VALUES, VALUES_OF_GRADIENT = 4096, 2048  # of a program: of twice as many the gradient spills
RESIDENT = 3  # programs of the weight's gradient on a multiprocessor


@triton.jit
def _spectrum(
    x,
    table_ptr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x [BLOCK_H * BLOCK_CHANNELS, BLOCK_W] -> real and imaginary part [BLOCK_BINS * BLOCK_CHANNELS, BLOCK_H]."""
    both = tl.arange(0, 2 * BLOCK_BINS)
    along_row = tl.load(table_ptr + tl.arange(0, BLOCK_W)[:, None] * (2 * BLOCK_BINS) + both[None, :])
    rows = tl.dot(x, along_row, input_precision=PRECISION, out_dtype=ACC)
    real, imaginary = tl.split(tl.reshape(rows, (BLOCK_H, BLOCK_CHANNELS, BLOCK_BINS, 2)))
    real = tl.reshape(tl.permute(real, (2, 1, 0)), (BLOCK_BINS * BLOCK_CHANNELS, BLOCK_H))
    imaginary = tl.reshape(tl.permute(imaginary, (2, 1, 0)), (BLOCK_BINS * BLOCK_CHANNELS, BLOCK_H))
    cos, sin = _turns(table_ptr, BLOCK_H, BLOCK_W, BLOCK_BINS)
    to_real = tl.dot(imaginary, sin, input_precision=PRECISION, out_dtype=ACC)
    to_real = tl.dot(real, cos, to_real, input_precision=PRECISION, out_dtype=ACC)
    to_imaginary = tl.dot(-real, sin, input_precision=PRECISION, out_dtype=ACC)
    to_imaginary = tl.dot(imaginary, cos, to_imaginary, input_precision=PRECISION, out_dtype=ACC)
    return to_real, to_imaginary


@triton.jit
def _turns(table_ptr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_BINS: tl.constexpr):
    """Cosines and sines of the transform along a column, both symmetric."""
    rows, cols = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_H)[None, :]
    at = table_ptr + 2 * BLOCK_W * BLOCK_BINS + rows * BLOCK_H + cols
    return tl.load(at), tl.load(at + BLOCK_H * BLOCK_H)


@triton.jit
def filtered_maps(
    x_ptr,
    weight_ptr,
    table_ptr,
    out_ptr,
    x_image,
    out_image,
    X_H: tl.constexpr,
    X_W: tl.constexpr,
    X_ROW: tl.constexpr,
    X_COL: tl.constexpr,
    OUT_H: tl.constexpr,
    OUT_W: tl.constexpr,
    OUT_ROW: tl.constexpr,
    OUT_COL: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """out = inverse transform of (transform of x, times the weight).

    The table: along a row [BLOCK_W, 2 BLOCK_BINS], cosines and sines along a column [BLOCK_H, BLOCK_H] each, back
    along a row [2 BLOCK_BINS, BLOCK_W]; zero where the map has no pixel, real and imaginary parts side by side.
    """
    blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    bins: tl.constexpr = X_W // 2 + 1
    image = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * BLOCK_CHANNELS
    rows = tl.arange(0, BLOCK_H)[:, None, None]
    channels = first + tl.arange(0, BLOCK_CHANNELS)[None, :, None]
    cols = tl.arange(0, BLOCK_W)[None, None, :]
    real = (rows < X_H) & (cols < X_W) & (channels < CHANNELS)
    at = x_ptr + image * x_image + rows * X_ROW + cols * X_COL + channels
    x = tl.reshape(tl.load(at, mask=real, other=0.0).to(ACC), (BLOCK_H * BLOCK_CHANNELS, BLOCK_W))
    re, im = _spectrum(x, table_ptr, BLOCK_H, BLOCK_W, BLOCK_BINS, BLOCK_CHANNELS, ACC, PRECISION)

    of_bin = tl.arange(0, BLOCK_BINS * BLOCK_CHANNELS)[:, None] // BLOCK_CHANNELS
    channel = first + tl.arange(0, BLOCK_BINS * BLOCK_CHANNELS)[:, None] % BLOCK_CHANNELS
    row = tl.arange(0, BLOCK_H)[None, :]
    kept = (of_bin < bins) & (channel < CHANNELS) & (row < X_H)
    at = weight_ptr + ((channel * X_H + row) * bins + of_bin) * 2
    factor = tl.load(at, mask=kept, other=0.0).to(ACC)
    turn = tl.load(at + 1, mask=kept, other=0.0).to(ACC)
    re, im = re * factor - im * turn, re * turn + im * factor

    cos, sin = _turns(table_ptr, BLOCK_H, BLOCK_W, BLOCK_BINS)
    back = tl.dot(-im, sin, input_precision=PRECISION, out_dtype=ACC)
    back = tl.dot(re, cos, back, input_precision=PRECISION, out_dtype=ACC)
    back_im = tl.dot(re, sin, input_precision=PRECISION, out_dtype=ACC)
    back_im = tl.dot(im, cos, back_im, input_precision=PRECISION, out_dtype=ACC)
    back = tl.permute(tl.reshape(back, (BLOCK_BINS, BLOCK_CHANNELS, BLOCK_H)), (2, 1, 0))
    back_im = tl.permute(tl.reshape(back_im, (BLOCK_BINS, BLOCK_CHANNELS, BLOCK_H)), (2, 1, 0))
    lines = tl.reshape(tl.join(back, back_im), (BLOCK_H * BLOCK_CHANNELS, 2 * BLOCK_BINS))
    both = tl.arange(0, 2 * BLOCK_BINS)
    at = table_ptr + 2 * BLOCK_W * BLOCK_BINS + 2 * BLOCK_H * BLOCK_H
    along_row = tl.load(at + both[:, None] * BLOCK_W + tl.arange(0, BLOCK_W)[None, :])
    y = tl.reshape(
        tl.dot(lines, along_row, input_precision=PRECISION, out_dtype=ACC), (BLOCK_H, BLOCK_CHANNELS, BLOCK_W)
    )
    at = out_ptr + image * out_image + rows * OUT_ROW + cols * OUT_COL + channels
    tl.store(at, y.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def filter_gradient(
    grad_ptr,
    x_ptr,
    table_ptr,
    out_ptr,
    images,
    grad_image,
    x_image,
    GRAD_H: tl.constexpr,
    GRAD_W: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_COL: tl.constexpr,
    X_H: tl.constexpr,
    X_W: tl.constexpr,
    X_ROW: tl.constexpr,
    X_COL: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """out[part, channel, row, bin] = sum over the part's images of transform(grad) * conjugate of transform(x).

    A part has every PARTS-th image.
    """
    blocks: tl.constexpr = (CHANNELS + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    bins: tl.constexpr = X_W // 2 + 1
    part = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * BLOCK_CHANNELS
    rows = tl.arange(0, BLOCK_H)[:, None, None]
    channels = first + tl.arange(0, BLOCK_CHANNELS)[None, :, None]
    cols = tl.arange(0, BLOCK_W)[None, None, :]
    real = (rows < X_H) & (cols < X_W) & (channels < CHANNELS)
    re = tl.zeros((BLOCK_BINS * BLOCK_CHANNELS, BLOCK_H), ACC)
    im = tl.zeros((BLOCK_BINS * BLOCK_CHANNELS, BLOCK_H), ACC)
    for done in range(0, images - part, PARTS):
        image = (part + done).to(tl.int64)
        at = grad_ptr + image * grad_image + rows * GRAD_ROW + cols * GRAD_COL + channels
        grad = tl.reshape(tl.load(at, mask=real, other=0.0).to(ACC), (BLOCK_H * BLOCK_CHANNELS, BLOCK_W))
        at = x_ptr + image * x_image + rows * X_ROW + cols * X_COL + channels
        x = tl.reshape(tl.load(at, mask=real, other=0.0).to(ACC), (BLOCK_H * BLOCK_CHANNELS, BLOCK_W))
        g_re, g_im = _spectrum(grad, table_ptr, BLOCK_H, BLOCK_W, BLOCK_BINS, BLOCK_CHANNELS, ACC, PRECISION)
        x_re, x_im = _spectrum(x, table_ptr, BLOCK_H, BLOCK_W, BLOCK_BINS, BLOCK_CHANNELS, ACC, PRECISION)
        re += g_re * x_re + g_im * x_im
        im += g_im * x_re - g_re * x_im

    of_bin = tl.arange(0, BLOCK_BINS * BLOCK_CHANNELS)[:, None] // BLOCK_CHANNELS
    channel = first + tl.arange(0, BLOCK_BINS * BLOCK_CHANNELS)[:, None] % BLOCK_CHANNELS
    row = tl.arange(0, BLOCK_H)[None, :]
    kept = (of_bin < bins) & (channel < CHANNELS) & (row < X_H)
    at = out_ptr + (((part * CHANNELS + channel) * X_H + row) * bins + of_bin) * 2
    tl.store(at, re, mask=kept)
    tl.store(at + 1, im, mask=kept)


def forward(x, weight, config: Config = None) -> torch.Tensor:
    """x [N,C,H,W], weight [C,H,W//2+1,2] -> [N,C,H,W] channels_last."""
    x = channels_inside(x)
    out = new_map(x, x.shape[1], x.shape[2:])
    if out.numel():
        table = _table(x.shape[2], x.shape[3], _accumulator(x, weight), x.device)
        start(filter_launch, x, weight.contiguous(), table, out, config)
    return out


def grad_weight(grad, x, config: Config = None) -> torch.Tensor:
    """grad and x [N,C,H,W] -> gradient of the weight [C,H,W//2+1,2] in float32, or float64 where one of them is."""
    grad, x = channels_inside(grad), channels_inside(x)
    (_, channels, height, width), dtype = x.shape, _accumulator(grad, x)
    if not x.numel():
        return x.new_zeros((channels, height, width // 2 + 1, 2), dtype=dtype)
    table = _table(height, width, dtype, x.device)
    partials = start(grad_weight_launch, grad, x, table, config)[0]["out_ptr"]
    return partials.sum(0) * (multiplicity(partials, width) / (height * width))


def filter_launch(x, weight, table, out, config: Config = None) -> Launch:
    """The launch that fills `out` [N,C,H,W]."""
    tile, constants = _constants(x, table, VALUES, config)
    if constants["BLOCK_H"] * constants["BLOCK_W"] <= SMALL:
        constants["PRECISION"] = "ieee"
    arguments = {
        "x_ptr": x,
        "weight_ptr": weight,
        "table_ptr": table,
        "out_ptr": out,
        "x_image": x.stride(0),
        "out_image": out.stride(0),
    }
    constants |= window_host.map_constants("OUT", out)
    grid = (x.shape[0] * -(-x.shape[1] // tile["BLOCK_CHANNELS"]),)
    return Launch(filtered_maps, grid, arguments, constants, tile["num_warps"])


def grad_weight_launch(grad, x, table, config: Config = None) -> Launch:
    """The launch, which makes partial sums [parts,C,H,W//2+1,2]."""
    tile, constants = _constants(x, table, VALUES_OF_GRADIENT, config)
    (images, channels, height, width), blocks = x.shape, -(-x.shape[1] // tile["BLOCK_CHANNELS"])
    parts = max(1, min(images, RESIDENT * multiprocessors() // blocks))
    partials = torch.empty((parts, channels, height, width // 2 + 1, 2), dtype=table.dtype, device=x.device)
    arguments = {
        "grad_ptr": grad,
        "x_ptr": x,
        "table_ptr": table,
        "out_ptr": partials,
        "images": images,
        "grad_image": grad.stride(0),
        "x_image": x.stride(0),
    }
    constants |= {**window_host.map_constants("GRAD", grad), "PARTS": parts}
    return Launch(filter_gradient, (parts * blocks,), arguments, constants, tile["num_warps"], made=("out_ptr",))


def _constants(x, table, values: int, config: Config) -> tuple[dict[str, int], dict]:
    """A tile of about so many values with its warps, and what both kernels are told."""
    sides = _sides(*x.shape[2:])
    width = max(1, min(power_of_two(x.shape[1]), values // (sides["BLOCK_H"] * sides["BLOCK_W"])))
    tile = {"BLOCK_CHANNELS": width, "num_warps": 4, **(config or {})}
    constants = {
        **window_host.map_constants("X", x),
        "CHANNELS": x.shape[1],
        "ACC": window_host.TRITON_DTYPES[table.dtype],
        "PRECISION": "ieee" if torch.version.hip else "tf32x3",  # as exact as float32, and on the matrix units
        **sides,
        "BLOCK_CHANNELS": tile["BLOCK_CHANNELS"],
    }
    return tile, constants


def _sides(height: int, width: int) -> dict[str, int]:
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    least = next(side for since, side in SIDES.items() if version >= since)
    rows, cols = (max(least, power_of_two(size)) for size in (height, width))
    # of a bin the real and the imaginary part are summed over
    return {"BLOCK_H": rows, "BLOCK_W": cols, "BLOCK_BINS": max(least // 2, power_of_two(width // 2 + 1))}


def _accumulator(*tensors: torch.Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def table_size(height: int, width: int) -> int:
    """Elements of the table of a map."""
    rows, cols, bins = _sides(height, width).values()
    return 4 * cols * bins + 2 * rows * rows


@lru_cache(maxsize=64)
def _table(height: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Cosines and sines as `filtered_maps` reads them; the factor of both transforms, 1 / HW, is in those back along a
    row."""
    rows, cols, num_bins = _sides(height, width).values()
    bins = width // 2 + 1
    phase = _phases(width, bins, width)
    there = torch.zeros(cols, num_bins, 2, dtype=torch.float64)
    there[:width, :bins] = torch.stack((phase.cos(), -phase.sin()), -1)
    turns = torch.zeros(2, rows, rows, dtype=torch.float64)
    phase = _phases(height, height, height)
    turns[:, :height, :height] = torch.stack((phase.cos(), phase.sin()))
    back = torch.zeros(num_bins, 2, cols, dtype=torch.float64)
    phase = _phases(bins, width, width)
    times = multiplicity(there, width)[..., None] / (height * width)
    back[:bins, :, :width] = times * torch.stack((phase.cos(), -phase.sin()), 1)
    return torch.cat([t.flatten() for t in (there, turns, back)]).to(device, dtype)


def _phases(rows: int, columns: int, period: int) -> torch.Tensor:
    """2 pi times the product of both numbers over the period, of which whole turns are taken off first."""
    turns = torch.arange(rows)[:, None] * torch.arange(columns) % period
    return turns.double() * (2 * math.pi / period)
