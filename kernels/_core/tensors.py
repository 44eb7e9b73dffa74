"""Small things that every operation needs of its arguments: pairs, dtypes of sums, where channels lie in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Pair = int | tuple[int, ...]


def pair(value: Pair) -> tuple[int, int]:
    """An option along both axes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums of values of `dtype` are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def wide(t: torch.Tensor) -> torch.Tensor:
    """`t` in the dtype that its sums are kept in."""
    return t.to(accumulator(t.dtype))


def channels_inside(x: torch.Tensor) -> torch.Tensor:
    """`x` [N,C,H,W] with its channels next to each other, copied only where they are not."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(memory_format=torch.channels_last)


def new_map(x: torch.Tensor, channels: int, size: Sequence[int]) -> torch.Tensor:
    """A map [N,channels,*size] for what is computed from x, channels_last."""
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
