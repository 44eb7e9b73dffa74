"""The calls of global_filter that users meet."""

from __future__ import annotations

from .._core.operation import Shape

OP = "global_filter"
SHAPES = (
    Shape(OP, 128, 240, 14, 14),
    Shape(OP, 128, 496, 7, 7),
)
TINY = (Shape(OP, 6, 4, 6, 6),)
