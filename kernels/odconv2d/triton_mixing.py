"""The mixing of kernels: each sample's is written once, with all four factors in it.

So neither the input nor the result of the convolution is passed over for a factor, and no tensor holds n kernels per
sample. The backward pass reads the gradient once too: it is large, [N,C',Kh*Kw*C/g], and all sums are taken on the way.
"""

# Tuples grow by +, the form that Triton compiles.
# ruff: noqa: RUF005

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .._core.launch import Launch, power_of_two
from .._core.prepared import start
from .._core.tensors import accumulator
from .._triton import window_host

MADE = ("out_ptr", "grad_kernel_ptr", "grad_row_ptr", "grad_column_ptr")  # by the backward pass
PROGRAMS = 1024  # as many as keep a GPU busy; the images are shared out among them


@triton.jit
def mixed_kernels(
    weight_ptr,
    kernel_ptr,
    row_ptr,
    column_ptr,
    out_ptr,
    grad_ptr,
    grad_kernel_ptr,
    grad_row_ptr,
    grad_column_ptr,
    images,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KERNELS: tl.constexpr,
    IMAGES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """out[image, r, c] = row[image, r] * column[image, c] * sum over m of kernel[image, m] * weight[m, r, c].

    Where there is a grad of that, out[part, m, r, c] is the sum of the weight's gradients over the IMAGES of the part,
    and the factors' gradients are written block by block: [block, image, m], [column block, image, r] and
    [row block, image, c]. Sums have a fixed order.
    """
    column_blocks: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row_block, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = column_block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    real = (rows < ROWS) & (columns < COLUMNS)
    within = rows * COLUMNS + columns
    weights, sums = (), ()
    for m in tl.static_range(KERNELS):  # pyright: ignore
        weights = weights + (tl.load(weight_ptr + m * ROWS * COLUMNS + within, mask=real, other=0.0).to(ACC),)
        sums = sums + (tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), ACC),)
    for i in range(IMAGES):
        image = (tl.program_id(1) * IMAGES + i).to(tl.int64)
        there = image < images
        row = tl.load(row_ptr + image * ROWS + rows, mask=tl.where(there, rows < ROWS, False), other=0.0).to(ACC)
        valid = tl.where(there, columns < COLUMNS, False)
        column = tl.load(column_ptr + image * COLUMNS + columns, mask=valid, other=0.0).to(ACC)
        mixed = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), ACC)
        for m in tl.static_range(KERNELS):  # pyright: ignore
            mixed += tl.load(kernel_ptr + image * KERNELS + m, mask=there, other=0.0).to(ACC) * weights[m]
        kept = tl.where(there, real, False)
        if grad_ptr is None:
            at = out_ptr + image * (ROWS * COLUMNS) + within
            tl.store(at, (mixed * row * column).to(out_ptr.dtype.element_ty), mask=kept)
        else:
            grad = tl.load(grad_ptr + image * (ROWS * COLUMNS) + within, mask=kept, other=0.0).to(ACC)
            inner = grad * row * column
            new = ()
            for m in tl.static_range(KERNELS):  # pyright: ignore
                part = tl.load(kernel_ptr + image * KERNELS + m, mask=there, other=0.0).to(ACC)
                new = new + (sums[m] + part * inner,)
                at = grad_kernel_ptr + (tl.program_id(0) * images + image) * KERNELS + m
                tl.store(at, tl.sum(tl.sum(inner * weights[m], 1), 0), mask=there)
            sums = new
            at = grad_row_ptr + (column_block * images + image) * ROWS + rows
            of_rows = tl.sum(grad * mixed * column, 1)[:, None]  # pyright: ignore
            tl.store(at, of_rows, mask=tl.where(there, rows < ROWS, False))
            at = grad_column_ptr + (row_block * images + image) * COLUMNS + columns
            tl.store(at, tl.sum(grad * mixed * row, 0)[None, :], mask=valid)  # pyright: ignore
    if grad_ptr is not None:
        for m in tl.static_range(KERNELS):  # pyright: ignore
            at = out_ptr + (tl.program_id(1) * KERNELS + m) * (ROWS * COLUMNS) + within
            tl.store(at, sums[m], mask=real)


def mix(weight, kernel, rows, columns) -> torch.Tensor:
    """weight [n,R,C], kernel [N,n], rows [N,R], columns [N,C] -> [N,R,C] in the weight's dtype."""
    out = torch.empty((kernel.shape[0], *weight.shape[1:]), dtype=weight.dtype, device=weight.device)
    if out.numel():
        start(mix_launch, *(t.contiguous() for t in (weight, kernel, rows, columns)), out)
    return out


def mix_grads(grad, weight, kernel, rows, columns) -> tuple[torch.Tensor, ...]:
    """The gradients of weight, kernel, rows and columns, each in its dtype."""
    given = [t.contiguous() for t in (weight, kernel, rows, columns)]
    if not grad.numel():
        return tuple(torch.zeros_like(t) for t in given)
    (found,) = start(mix_grads_launch, grad.contiguous(), *given)
    return tuple(found[name].sum(0).to(t.dtype) for name, t in zip(MADE, given, strict=True))


def mix_launch(weight, kernel, rows, columns, out) -> Launch:
    """The launch that fills `out` [N,R,C]."""
    tile, blocks, images = _tile(weight, kernel.shape[0])
    grid = (blocks[0] * blocks[1], -(-kernel.shape[0] // images))
    arguments, constants = _arguments(weight, kernel, rows, columns, out, tile, images)
    return Launch(mixed_kernels, grid, arguments, constants)


def mix_grads_launch(grad, weight, kernel, rows, columns) -> Launch:
    """The launch, which makes the gradients of weight, kernel, rows and columns, to be summed over the first
    dimension."""
    count, dtype = kernel.shape[0], accumulator(weight.dtype)
    tile, blocks, images = _tile(weight, count)
    parts = -(-count // images)
    lengths = (parts, blocks[0] * blocks[1], blocks[1], blocks[0])
    found = tuple(
        torch.empty((length, *t.shape), dtype=dtype, device=weight.device)
        for length, t in zip(lengths, (weight, kernel, rows, columns), strict=True)
    )
    arguments, constants = _arguments(weight, kernel, rows, columns, found[0], tile, images)
    arguments |= {"grad_ptr": grad, **dict(zip(MADE, found, strict=True))}
    return Launch(mixed_kernels, (blocks[0] * blocks[1], parts), arguments, constants, made=MADE)


def _tile(weight, count: int) -> tuple[dict[str, int], tuple[int, int], int]:
    """Tile, blocks of rows and of columns, images per program."""
    tile = {
        "BLOCK_ROWS": min(16, power_of_two(weight.shape[1])),
        "BLOCK_COLUMNS": min(64, power_of_two(weight.shape[2])),
    }
    blocks = (-(-weight.shape[1] // tile["BLOCK_ROWS"]), -(-weight.shape[2] // tile["BLOCK_COLUMNS"]))
    parts = min(count, max(1, PROGRAMS // (blocks[0] * blocks[1])))
    return tile, blocks, power_of_two(-(-count // parts))


def _arguments(weight, kernel, rows, columns, out, tile, images) -> tuple[dict, dict]:
    pointers = {"weight": weight, "kernel": kernel, "row": rows, "column": columns, "out": out}
    absent = ("grad", "grad_kernel", "grad_row", "grad_column")
    arguments = {f"{name}_ptr": t for name, t in pointers.items()} | {f"{name}_ptr": None for name in absent}
    constants = {"ROWS": weight.shape[1], "COLUMNS": weight.shape[2], "KERNELS": weight.shape[0], "IMAGES": images}
    return (
        arguments | {"images": kernel.shape[0]},
        constants | {"ACC": window_host.sum_dtype(weight.dtype)} | tile,
    )
