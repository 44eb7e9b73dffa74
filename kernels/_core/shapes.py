"""What the folders' lists of launches share: maps without memory, trips of a loop."""

from __future__ import annotations

import torch

from .launch import Launch
from .operation import Shape


def maps(shape: Shape, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of `shape` on the meta device, channels_last."""
    out_size = (shape.size - 1) // shape.stride + 1
    x, out = (
        torch.empty(shape.images, size, size, shape.channels, dtype=dtype, device="meta").permute(0, 3, 1, 2)
        for size in (shape.size, out_size)
    )
    return x, out


def steps(launch: Launch) -> int:
    """Trips of the loop of a sampled product."""
    sizes = launch.constants
    return sizes["TAPS_H"] * sizes["TAPS_W"] * -(-sizes["C_IN"] // sizes["BLOCK_FROM"]) * sizes.get("KERNELS", 1)
