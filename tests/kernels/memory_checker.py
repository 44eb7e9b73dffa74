"""Finds reads and writes outside of a kernel's tensors under Triton's interpreter, which itself lets them pass.

`checked()` watches every active lane of every load and store: its address must lie in the elements of a tensor that the
kernel was given, between its first and its last. Gaps between strided elements count as inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from triton.runtime import interpreter


@dataclass
class Watch:
    """What was seen: kernel launches by name, active lanes, and a line for each access outside."""

    launches: list[str] = field(default_factory=list)
    lanes: int = 0
    outside: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def look(self, what: str, addresses: np.ndarray, mask: np.ndarray, width: int) -> None:
        addresses, mask = np.broadcast_arrays(addresses, mask)
        active = addresses[mask.astype(bool)].astype(np.int64)
        self.lanes += active.size
        inside = np.zeros(active.shape, bool)
        for first, end in self.ranges:
            inside |= (active >= first) & (active + width <= end)
        if not inside.all():
            name = self.launches[-1] if self.launches else "?"
            self.outside.append(f"{name}: {int((~inside).sum())} of {active.size} lanes of a {what}")


@contextmanager
def checked() -> Iterator[Watch]:
    """Watches all kernels launched inside, arguments given by name; AssertionError at the end if one went outside."""
    watch = Watch()
    builder = type(interpreter.interpreter_builder)
    executor = interpreter.GridExecutor
    load, store, call = builder.create_masked_load, builder.create_masked_store, executor.__call__

    def look_load(self, ptrs, mask, *rest, **options):
        watch.look("load", ptrs.data, mask.data, _width(ptrs))
        return load(self, ptrs, mask, *rest, **options)

    def look_store(self, ptrs, value, mask, *rest, **options):
        watch.look("store", ptrs.data, mask.data, _width(ptrs))
        return store(self, ptrs, value, mask, *rest, **options)

    def look_call(self, *args, **options):
        watch.launches.append(self.fn.__name__)
        watch.ranges = [extent(t, name) for name, t in options.items() if isinstance(t, torch.Tensor)]
        return call(self, *args, **options)

    builder.create_masked_load, builder.create_masked_store, executor.__call__ = look_load, look_store, look_call
    try:
        yield watch
    finally:
        builder.create_masked_load, builder.create_masked_store, executor.__call__ = load, store, call
    assert not watch.outside, "; ".join(watch.outside)


def extent(t: torch.Tensor, name: str = "") -> tuple[int, int]:
    """First byte and the one after the last of the elements of `t`.

    What has taps counts from the start of its storage: a gradient steps through them backwards from the address given.
    """
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    first = t.untyped_storage().data_ptr() if name in ("weight_ptr", "factor_ptr") else t.data_ptr()
    return first, t.data_ptr() + (last + 1) * t.element_size()


def _width(ptrs) -> int:
    return max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
