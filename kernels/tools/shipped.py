"""The launches that users meet: maps of RedNet, HorNet and MobileNetV2 at 224 pixels, and small ones.

Tensors are on the meta device: shapes and strides without memory. For ahead-of-time reports, and as the cases that the
benchmark measures.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.launch import Launch
from .._core.operation import Shape
from ..operations import OPERATIONS

SHAPES = tuple(shape for operation in OPERATIONS.values() for shape in operation.shapes)
TINY = tuple(shape for operation in OPERATIONS.values() for shape in operation.tiny)


def launches(shape: Shape, dtype: torch.dtype) -> Iterator[tuple[str, Launch, int]]:
    """(pass, launch, trips of its loop) of every kernel that forward and backward of `shape` run."""
    return OPERATIONS[shape.op].launches(shape, dtype)
