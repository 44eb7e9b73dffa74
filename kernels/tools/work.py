"""One piece of work that the benchmarks time, and what its makers, `work` in the folders of the operations, share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch

from .._core.operation import Shape
from ..odconv2d.aten import cheaper_form
from ..operations import OPERATIONS
from .settings import forced


@dataclass(frozen=True)
class Work:
    """One pass of one shape: makers of inputs and forms by name, what must move and be computed, the exact result.

    A result is a tensor, or a tuple of them.
    """

    shape: Shape
    pass_name: str
    dtype: str
    make: Callable[[], tuple]
    forms: dict[str, Callable[..., Any]]
    exact: Callable[..., Any]
    bytes_min: int
    flops: int
    tf32: bool = False  # whether products of float32 may be rounded to it

    @property
    def plain(self) -> Callable[..., Any]:
        """What runs where our kernel does not."""
        return self.forms["aten"] if "aten" in self.forms else self.forms["channels_last"]

    @property
    def key(self) -> dict[str, Any]:
        out = (self.shape.size - 1) // self.shape.stride + 1
        kernel, stride = self.shape.kernel, self.shape.stride
        return {
            "op": self.shape.op,
            "pass": self.pass_name,
            "dtype": self.dtype,
            "images": self.shape.images,
            "channels": self.shape.channels,
            "size": [out, out],
            "kernel": [kernel, kernel],
            "stride": [stride, stride],
            "form": _form(self.shape),
        }


def _form(shape: Shape) -> str:
    """What tells cases of an operation apart besides sizes, as its cases for the dispatcher do."""
    if shape.op == "gnconv_recursion":
        return f"{shape.width} steps"
    return dynamic_form(shape) if shape.op == "odconv2d" else ""


def dynamic_form(shape: Shape) -> str:
    """The form that our kernels take by themselves."""
    x, weight = (shape.images, shape.channels, shape.size, shape.size), (shape.width, shape.channels, shape.channels)
    geometry = ((shape.stride,) * 2, (shape.kernel // 2,) * 2, (1, 1), 1)
    return cheaper_form("cuda", x, (*weight, shape.kernel, shape.kernel), *geometry)


def works(shapes: tuple[Shape, ...], dtypes: tuple[str, ...], device: torch.device) -> Iterator[Work]:
    """Every pass of every shape, the first dtype first; matrix products in float32 with and without tf32."""
    for dtype in dtypes:
        for shape in shapes:
            operation = OPERATIONS[shape.op]
            make = import_module(f"{operation.package}.work").work
            for pass_name in operation.passes:
                for tf32 in (False, True) if operation.matrix_kernels and dtype == "float32" else (False,):
                    yield replace(make(shape, pass_name, dtype, device), tf32=tf32)


def trained(form: Callable, backend: str | None = None) -> Callable:
    """The gradients of all its tensors, as one tensor; all of it by `backend`, where there is one."""

    def run(*tensors):
        with forced(backend) if backend else nullcontext():
            return gradients(*tensors)

    def gradients(*tensors):
        given = [t.detach().requires_grad_() for t in tensors]
        with torch.enable_grad():
            y = form(*given)
            grads = torch.autograd.grad(y, given, torch.ones_like(y))
        return torch.cat([g.flatten().to(y.dtype) for g in grads])

    return run


def random_map(n: int, c: int, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[n,c,size,size], channels_last."""
    return torch.randn(n, size, size, c, device=device, dtype=dtype).permute(0, 3, 1, 2)
