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

from .._core.launch import Launch, float32_precision, interpreted, power_of_two
from .._core.prepared import start
from .._core.tensors import accumulator
from .._triton import window_host

MADE = ("out_ptr", "grad_kernel_ptr", "grad_row_ptr", "grad_column_ptr")  # by the backward pass
NARROWEST = 16  # side of the smallest matrix product
PROGRAMS = 1024  # as many as keep a GPU busy; the images are shared out among them


@triton.jit
def mixed_kernels(
    weight_ptr,
    kernel_ptr,
    row_ptr,
    column_ptr,
    out_ptr,
    images,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KERNELS: tl.constexpr,
    IMAGES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """out[image, r, c] = row[image, r] * column[image, c] * sum over m of kernel[image, m] * weight[m, r, c]."""
    column_blocks: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row_block, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    columns = column_block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    real = (rows < ROWS) & (columns < COLUMNS)
    within = rows * COLUMNS + columns
    weights = ()
    for m in tl.static_range(KERNELS):  # pyright: ignore
        weights = weights + (tl.load(weight_ptr + m * ROWS * COLUMNS + within, mask=real, other=0.0).to(ACC),)
    for i in range(IMAGES):
        image = (tl.program_id(1) * IMAGES + i).to(tl.int64)
        there = image < images
        row = tl.load(row_ptr + image * ROWS + rows, mask=tl.where(there, rows < ROWS, False), other=0.0).to(ACC)
        valid = tl.where(there, columns < COLUMNS, False)
        column = tl.load(column_ptr + image * COLUMNS + columns, mask=valid, other=0.0).to(ACC)
        mixed = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), ACC)
        for m in tl.static_range(KERNELS):  # pyright: ignore
            mixed += tl.load(kernel_ptr + image * KERNELS + m, mask=there, other=0.0).to(ACC) * weights[m]
        at = out_ptr + image * (ROWS * COLUMNS) + within
        tl.store(at, (mixed * row * column).to(out_ptr.dtype.element_ty), mask=tl.where(there, real, False))


@triton.jit
def mixing_gradients(
    weight_ptr,
    kernel_ptr,
    row_ptr,
    column_ptr,
    grad_ptr,
    out_ptr,
    grad_kernel_ptr,
    grad_row_ptr,
    grad_column_ptr,
    images,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KERNELS: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_KERNELS: tl.constexpr,
):
    """With inner[image, c] = grad[image, r, c] * row[image, r] * column[image, c], for one r after the other:

    out[image block, m, r, c] = kernel^T inner, the weight's gradient; grad_kernel[block, image, m] += inner weight^T;
    with mixed = kernel weight, grad_row[column block, image, r] and grad_column[row block, image, c] are the sums of
    grad * mixed * column and grad * mixed * row. Matrix products over images, kernels and columns, in a fixed order.
    """
    column_blocks: tl.constexpr = (COLUMNS + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    row_block, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    image = (tl.program_id(1) * BLOCK_IMAGES + tl.arange(0, BLOCK_IMAGES)).to(tl.int64)
    columns = column_block * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    m = tl.arange(0, BLOCK_KERNELS)
    there, inside = image < images, columns < COLUMNS
    valid, valid_weight = there[:, None] & inside, (m[:, None] < KERNELS) & inside
    kernel_at = kernel_ptr + image[:, None] * KERNELS + m[None, :]
    kernel = tl.load(kernel_at, mask=there[:, None] & (m[None, :] < KERNELS), other=0.0).to(ACC)
    column = tl.load(column_ptr + image[:, None] * COLUMNS + columns, mask=valid, other=0.0).to(ACC)
    of_kernel = tl.zeros((BLOCK_IMAGES, BLOCK_KERNELS), ACC)
    of_column = tl.zeros((BLOCK_IMAGES, BLOCK_COLUMNS), ACC)
    for i in range(BLOCK_ROWS):
        r = row_block * BLOCK_ROWS + i
        real = r < ROWS
        within = r * COLUMNS + columns
        at = weight_ptr + m[:, None] * (ROWS * COLUMNS) + within
        weight = tl.load(at, mask=tl.where(real, valid_weight, False), other=0.0)
        at = grad_ptr + image[:, None] * (ROWS * COLUMNS) + within
        grad = tl.load(at, mask=tl.where(real, valid, False), other=0.0).to(ACC)
        of_images = tl.where(real, there, False)
        row = tl.load(row_ptr + image * ROWS + r, mask=of_images, other=0.0).to(ACC)[:, None]
        inner = grad * row * column
        if WIDE:
            wide = weight.to(ACC)
            mixed = tl.dot(kernel, wide, input_precision=PRECISION, out_dtype=ACC)
            of_weight = tl.dot(tl.trans(kernel), inner, input_precision=PRECISION, out_dtype=ACC)
            of_kernel = tl.dot(inner, tl.trans(wide), of_kernel, input_precision=PRECISION, out_dtype=ACC)
        else:
            narrow, part = kernel.to(weight.dtype), inner.to(weight.dtype)
            mixed = tl.dot(narrow, weight, input_precision=PRECISION)
            of_weight = tl.dot(tl.trans(narrow), part, input_precision=PRECISION)
            of_kernel = tl.dot(part, tl.trans(weight), of_kernel, input_precision=PRECISION)
        mixed *= grad
        of_column += mixed * row
        at = grad_row_ptr + (column_block * images + image) * ROWS + r
        tl.store(at, tl.sum(mixed * column, 1), mask=of_images)  # pyright: ignore
        at = out_ptr + (tl.program_id(1) * KERNELS + m[:, None]).to(tl.int64) * (ROWS * COLUMNS) + within
        tl.store(at, of_weight, mask=tl.where(real, valid_weight, False))
    at = grad_kernel_ptr + (tl.program_id(0) * images + image[:, None]) * KERNELS + m[None, :]
    tl.store(at, of_kernel, mask=there[:, None] & (m[None, :] < KERNELS))
    tl.store(grad_column_ptr + (row_block * images + image[:, None]) * COLUMNS + columns, of_column, mask=valid)


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
    (_, num_rows, num_columns), count = weight.shape, kernel.shape[0]
    tile = {"BLOCK_ROWS": min(16, power_of_two(num_rows)), "BLOCK_COLUMNS": min(64, power_of_two(num_columns))}
    blocks = -(-num_rows // tile["BLOCK_ROWS"]) * -(-num_columns // tile["BLOCK_COLUMNS"])
    images = power_of_two(-(-count // min(count, max(1, PROGRAMS // blocks))))
    arguments = {**_pointers(weight, kernel, rows, columns), "out_ptr": out, "images": count}
    constants = {**_constants(weight), "IMAGES": images, **tile}
    return Launch(mixed_kernels, (blocks, -(-count // images)), arguments, constants)


def mix_grads_launch(grad, weight, kernel, rows, columns) -> Launch:
    """The launch, which makes the gradients of weight, kernel, rows and columns, to be summed over the first
    dimension."""
    (num_kernels, num_rows, num_columns), count = weight.shape, kernel.shape[0]
    half = weight.dtype in (torch.float16, torch.bfloat16)
    tile = {
        "BLOCK_IMAGES": max(NARROWEST, min(64 if half else 16, power_of_two(count))),
        "BLOCK_COLUMNS": max(NARROWEST, min(32, power_of_two(num_columns))),
        "BLOCK_KERNELS": max(NARROWEST, power_of_two(num_kernels)),
    }
    parts, column_blocks = -(-count // tile["BLOCK_IMAGES"]), -(-num_columns // tile["BLOCK_COLUMNS"])
    block = min(16, power_of_two(num_rows))
    while block > 1 and parts * column_blocks * -(-num_rows // block) < PROGRAMS:
        block //= 2
    row_blocks = -(-num_rows // block)
    lengths = (parts, row_blocks * column_blocks, column_blocks, row_blocks)
    made = {
        name: torch.empty((length, *t.shape), dtype=accumulator(weight.dtype), device=weight.device)
        for name, length, t in zip(MADE, lengths, (weight, kernel, rows, columns), strict=True)
    }
    arguments = {**_pointers(weight, kernel, rows, columns), "grad_ptr": grad, **made, "images": count}
    wide = interpreted() or weight.dtype == torch.float64
    constants = {**_constants(weight), "WIDE": wide, "PRECISION": float32_precision(), "BLOCK_ROWS": block, **tile}
    return Launch(mixing_gradients, (row_blocks * column_blocks, parts), arguments, constants, made=MADE)


def _pointers(weight, kernel, rows, columns) -> dict[str, torch.Tensor]:
    return {"weight_ptr": weight, "kernel_ptr": kernel, "row_ptr": rows, "column_ptr": columns}


def _constants(weight) -> dict:
    sizes = {"ROWS": weight.shape[1], "COLUMNS": weight.shape[2], "KERNELS": weight.shape[0]}
    return sizes | {"ACC": window_host.sum_dtype(weight.dtype)}
