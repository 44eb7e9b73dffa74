"""One call of a Triton kernel as data: it can be run, or compiled for a GPU that is not there (kernels.tools.ahead)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Any, TypeVar, cast

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_OFFSET = 2**31
Function = TypeVar("Function", bound=Callable)


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid, what it gets at run time, and what is compiled into it.

    made: the arguments that are tensors of its own, which it fills, contiguous.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, torch.Tensor | int | float | None]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    made: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told besides the constants."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}

    def compile(self) -> None:
        """Compile for the current device into Triton's cache on disk, without a launch; tensors may be on meta."""
        self.kernel.warmup(**self.arguments, **self.constants, **self.options, grid=self.grid)

    def with_arguments(self, arguments: Mapping[str, torch.Tensor]) -> Launch:
        """The same with other tensors."""
        return replace(self, arguments={**self.arguments, **arguments})

    def __call__(self) -> Any:
        """Run it; what Triton compiled for it."""
        given = next(t for t in self.arguments.values() if isinstance(t, torch.Tensor))
        with torch.cuda.device_of(given):  # Triton launches on the current device, whatever that of its tensors
            return self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


def constant_when_compiled(function: Function) -> Function:
    """torch.compiler.assume_constant_result, without the seconds that its import of the compiler costs at start."""
    cast(Any, function)._dynamo_marked_constant = True
    return function


@constant_when_compiled
@cache
def installed() -> bool:
    """Whether the package triton is there."""
    return find_spec("triton") is not None


@constant_when_compiled
@cache
def interpreted() -> bool:
    """Whether Triton's kernels run on the CPU: decided by TRITON_INTERPRET when Python starts."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@constant_when_compiled
@cache
def compiler_missing() -> str | None:
    """Why Triton cannot start kernels on a GPU: it compiles what starts them when a program first runs one."""
    found = os.environ.get("CC") or which("gcc") or which("clang")
    return None if found else "Triton finds no C compiler: install gcc or clang, or set CC"


@cache
def unavailable_reason() -> str | None:
    """Why no Triton kernel can run on this machine, None where it can."""
    if not installed():
        return "the package triton is not installed"
    if not interpreted() and not torch.cuda.is_available():
        return "there is no CUDA device, and TRITON_INTERPRET=1 was not set when Python started"
    return None if interpreted() else compiler_missing()


def unsupported_reason(*tensors: torch.Tensor | None) -> str | None:
    """Why no Triton kernel can take these tensors, None where one can."""
    given = [t for t in tensors if t is not None]
    device = given[0].device
    if not installed():
        return "the package triton is not installed"
    if device.type == "cpu" and not interpreted():
        return "the tensors are on a CPU, where kernels run only with TRITON_INTERPRET=1 set when Python starts"
    if device.type not in ("cpu", "cuda"):
        return f"the tensors are on {device.type}: allowed is cuda"
    if device.type == "cuda" and compiler_missing():
        return compiler_missing()
    wrong = next((t.dtype for t in given if t.dtype not in DTYPES), None)
    if wrong:
        return f"dtype {wrong}: allowed is one of {', '.join(map(str, DTYPES))}"
    if any(span(t) >= MAX_OFFSET for t in given):
        return "one image of a tensor spans 2^31 elements or more"
    return None


def span(t: torch.Tensor) -> int:
    """Elements between the first and the last of one image (all but the first dimension), in memory."""
    return sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True) if size)


def power_of_two(number: int) -> int:
    """The smallest power of two not below `number`."""
    return 1 << max(0, number - 1).bit_length()


@cache
def multiprocessors() -> int:
    """Of the current GPU; of an H200, where there is none."""
    return torch.cuda.get_device_properties().multi_processor_count if torch.cuda.is_available() else 132


def float32_precision() -> str:
    """What PyTorch's flags allow a float32 convolution on a GPU, which 1x1 products are: tf32 or ieee."""
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"  # pyright: ignore
