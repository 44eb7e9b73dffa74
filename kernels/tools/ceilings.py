"""A kernel of multiply-adds alone: what the arithmetic units of a GPU reach without tensor cores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

STEPS, CHAINS, BLOCK = 1024, 4, 1024
FLOPS = 2 * STEPS * CHAINS  # per value of the output


@triton.jit
def _multiply_adds(out_ptr, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at.to(tl.float32) * 1e-9
    a, b, c, d = x, x + 1.0, x + 2.0, x + 3.0
    for _ in range(STEPS):
        # four independent chains hide the latency of the unit
        a = a * x + 1.0
        b = b * x + 1.0
        c = c * x + 1.0
        d = d * x + 1.0
    tl.store(out_ptr + at, a + b + c + d)


def multiply_adds(out: torch.Tensor) -> None:
    """FLOPS operations for each value of `out` (float32, a multiple of BLOCK values)."""
    _multiply_adds[(out.numel() // BLOCK,)](out, STEPS=STEPS, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=True)  # pyright: ignore[reportCallIssue]
