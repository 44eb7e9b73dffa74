"""What the package knows of an operation: a call of one of its passes, a choice, and the operation itself.

Each folder describes its operation once, as OPERATION; `kernels.operations` lists them, and every table keyed by
operation is made from that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch._ops import OperatorBase

from .forms import Forms
from .launch import Launch


@dataclass(frozen=True)
class Shape:
    """One call that users meet: a square map.

    `width`: channels per group of involution, inner width of gnConv's step, steps of its recursion, pooling window of
    the self-calibrated gate, number of kernels of dynamic convolution.
    """

    op: str
    images: int
    channels: int
    size: int
    kernel: int = 1
    stride: int = 1
    width: int = 16

    @property
    def name(self) -> str:
        windowed = self.kernel > 1 or self.op.endswith("conv2d")
        kernel = f" K={self.kernel}" if windowed else f" from {self.width}"
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.op} {self.images}x{self.channels}x{self.size}x{self.size}{kernel}{stride}"


@dataclass(frozen=True)
class Problem:
    """One call of one pass of an operation, as far as speed and possibility go.

    `pass_name` is forward (of convolution also activated and joined: with something behind it), grad_input, grad_weight
    or training (all of them); `kernel` and `stride` are per axis; `unsupported_reason` says why Triton cannot take the
    tensors; `form` tells apart what runs different kernels; `filters`, where they are not as many as the channels.
    """

    op: str
    pass_name: str
    device: torch.device
    dtype: torch.dtype
    images: int
    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    unsupported_reason: str | None = None
    groups: int = 1
    form: str = ""
    filters: int | None = None

    @property
    def constants(self) -> tuple:
        """What makes it anew."""
        sizes = (self.images, self.channels, self.size, self.kernel, self.stride)
        return (self.op, self.pass_name, self.device, self.dtype, *sizes, self.unsupported_reason, self.groups,
                self.form, self.filters)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The provider that runs `op`, the reason in words, and the launch configuration measured as best, if any."""

    op: str
    provider: str
    reason: str
    config: Mapping[str, int] | None = field(default=None, hash=False)


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation: what can run it, what its calls look like, and what is measured of it.

    package: of its folder, the `__name__` there.
    decompositions: its registered forward operations -> the same in PyTorch's own.
    problem: of a call, from what the public function takes; None where PyTorch's own form is the only fast one.
    providers: modules of the folder that run it, or names of their parts.
    rule: why Triton cannot lose on an NVIDIA GPU, whatever the sizes; empty where a measured time must say.
    forms: of PyTorch's own, between which a measurement on the device decides.
    rivals: our kernels and PyTorch's own, where that is measured too.
    passes: those that are measured. products: whether nearly all its arithmetic is that of matrix products.
    matrix_kernels: names of its Triton kernels that multiply matrices.
    shapes: the calls that users meet; tiny: some that take no time.
    launches: (pass, launch, trips of its loop) of each kernel that one of the shapes runs.
    tile: a configuration, of what a kernel is told, that is predicted to be faster than its own.
    """

    package: str
    decompositions: Mapping[OperatorBase, Callable]
    problem: Callable[..., Problem] | None = None
    providers: tuple[str, ...] = ("aten", "reference", "triton")
    rule: str = ""
    forms: tuple[Forms, ...] = ()
    rivals: Forms | None = None
    passes: tuple[str, ...] = ("forward",)
    products: bool = False
    matrix_kernels: tuple[str, ...] = ()
    shapes: tuple[Shape, ...] = ()
    tiny: tuple[Shape, ...] = ()
    launches: Callable[[Shape, torch.dtype], Iterator[tuple[str, Launch, int]]] = lambda *_: iter(())
    tile: Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        return self.package.rpartition(".")[2]
