"""What the layers have of nn.Conv2d: how they are told sizes, what they say of themselves, which maps they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | Sequence[int]
Padding = Size | Literal["same", "valid"]
Device = torch.device | str | None
NormLayer = Callable[[int], nn.Module] | None
"""Channels -> norm; None leaves the norm out."""
NO_WEIGHT = (
    "no norm can be folded into {} through `weight` and `bias`; keep nn.Sequential(layer, norm), as "
    "nas.operators.replace makes it in YOLO's blocks, and fold by nas.fuse_for_inference(model)"
)
LEAF = "torch.nn"
"""Where modules seem to be defined that torch.fx takes as one step; an attribute of the object, the class keeps its."""


@dataclass(frozen=True)
class Window:
    """Sizes along rows and columns; `beyond` is what is padded at the bottom and on the right alone."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    beyond: tuple[int, int] = (0, 0)


def window(kernel_size: Size, stride: Size, padding: Padding, dilation: Size) -> Window:
    """The checked sizes of a window. Padding `same` gives ceil(H / stride) rows, `valid` is 0. Raises ValueError."""
    kernel, steps, apart = (
        pair("kernel_size", kernel_size),
        pair("stride", stride),
        pair("dilation", dilation),
    )
    if padding == "same":
        reach = [d * (k - 1) for k, d in zip(kernel, apart, strict=True)]
        around, odd = (reach[0] // 2, reach[1] // 2), (reach[0] % 2, reach[1] % 2)
        return Window(kernel, steps, around, apart, odd)
    if isinstance(padding, str) and padding != "valid":
        raise ValueError(f"padding = {padding!r}: allowed is 'same', 'valid', a number from 0 or (rows, columns)")
    return Window(kernel, steps, (0, 0) if isinstance(padding, str) else pair("padding", padding, 0), apart)


def pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    """A size along rows and columns, told as one number or two. Raises ValueError."""
    sizes = (value, value) if _is_whole(value) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(sizes) != 2 or not all(_is_whole(size) and size >= least for size in sizes):
        raise ValueError(f"{name} = {value!r}: allowed is a whole number from {least} or two, (rows, columns)")
    return sizes


def check_counts(**counts: Any) -> None:
    """Raise ValueError for a number of channels and the like that is not 1 or more."""
    for name, value in counts.items():
        if not _is_whole(value) or value < 1:
            raise ValueError(f"{name} = {value!r}: allowed is a whole number, 1 or more")


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Raise ValueError for what is no number above `least` and at most `most`; infinity is none."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least < float(value) <= most or math.isinf(value):
        limits = [f"above {least}"] * (least > -math.inf) + [f"at most {most}"] * (most < math.inf)
        raise ValueError(f"{name} = {value!r}: allowed is a number {' and '.join(limits)}".rstrip())


def check_divides(name: str, value: Any, *numbers: int) -> None:
    """Raise ValueError for what does not divide the numbers."""
    if not _is_whole(value) or value < 1 or any(number % value for number in numbers):
        raise ValueError(
            f"{name} = {value!r}: allowed is a divisor of {' and '.join(map(str, dict.fromkeys(numbers)))}"
        )


def check_only(name: str, value: Any, allowed: Any, why: str) -> None:
    """Raise ValueError for what an operator has not."""
    if value != allowed:
        raise ValueError(f"{name} = {value!r}: allowed is {allowed!r}: {why}")


def check_kept(operator: str, kernel: int, kernel_size: Size, padding: Padding, dilation: Size) -> None:
    """Raise ValueError for a window other than the operator's, and for padding that does not keep the map."""
    if pair("kernel_size", kernel_size) != (kernel, kernel):
        raise ValueError(f"kernel_size = {kernel_size!r}: allowed is {kernel}, the window of {operator}")
    kept = window(kernel, 1, "same", dilation).padding
    if window(kernel, 1, padding, dilation).padding != kept:
        raise ValueError(f"padding = {padding!r}: allowed is 'same', here {kept}: {operator} keeps the map")


def built_on(device: Device) -> AbstractContextManager:
    """Within, parameters are made on a device; None leaves it to torch's default."""
    return nullcontext() if device is None else torch.device(device)


def made(norm_layer: NormLayer, channels: int) -> nn.Module:
    """The norm of so many channels, nothing for None. Raises ValueError for what makes no module."""
    norm = norm_layer(channels) if callable(norm_layer) else norm_layer
    if norm is not None and not isinstance(norm, nn.Module):
        raise ValueError(f"norm_layer = {norm_layer!r}: allowed is what makes a norm of a number of channels, or None")
    return nn.Identity() if norm is None else norm


def shifted(x: Tensor, bias: Tensor | None) -> Tensor:
    """[N,C,H,W] plus a bias [C], if there is one."""
    return x if bias is None else x + bias[:, None, None]


def pad_beyond(x: Tensor, sizes: tuple[int, int]) -> Tensor:
    """The map with rows of zeros below and columns of zeros on the right."""
    return F.pad(x, (0, sizes[1], 0, sizes[0])) if any(sizes) else x


class Layer(nn.Module if TYPE_CHECKING else object):
    """Mixed into an operator's module: the attributes of nn.Conv2d, [C,H,W] as well as [N,C,H,W], `from_conv`."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode = "zeros"
    transposed = False
    output_padding = (0, 0)
    shown: ClassVar[tuple[str, ...]] = ()
    """Options of its own that its text shows."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> nn.Module:
        """A layer in the place of a convolution: its channels, stride, device and dtype, and where the operator has
        them its window, padding, dilation, groups and bias; `options` go before. Raises ValueError for what the
        operator cannot do, and for padding other than with zeros.
        """
        if conv.transposed or conv.padding_mode != "zeros":
            raise ValueError(f"conv = {conv}: allowed is a convolution that pads with zeros and is not transposed")
        told = {"stride": conv.stride, "device": conv.weight.device, "dtype": conv.weight.dtype} | cls.told_by(conv)
        layer = cls(conv.in_channels, conv.out_channels, **(told | options))
        layer.train(conv.training)
        cls.start_as(layer, conv)
        return layer

    @classmethod
    def told_by(cls, conv: nn.Conv2d) -> dict[str, Any]:
        """What a convolution says of the layer that takes its place."""
        return {
            "kernel_size": conv.kernel_size,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": conv.bias is not None,
        }

    def start_as(self, conv: nn.Conv2d) -> None:
        """Take over the weights of a convolution; an operator that cannot keeps its own start."""

    def on_maps(self, x: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C',H',W']."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(f"input has shape {list(input.shape)}: allowed is [N, C, H, W] or [C, H, W]")
        if not torch.jit.is_tracing() and input.shape[-3] != self.in_channels:  # while tracing sizes are tensors
            raise ValueError(f"input has shape {list(input.shape)}: allowed are {self.in_channels} channels")
        return self.on_maps(input) if input.dim() == 4 else self.on_maps(input.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        told = {name: getattr(self, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
        told |= {name: getattr(self, name) for name in self.shown}
        plain = {"dilation": (1, 1), "groups": 1}
        parts = [f"{name}={value}" for name, value in told.items() if plain.get(name) != value]
        return ", ".join([f"{self.in_channels}, {self.out_channels}", *parts])

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "bias") and name not in self._parameters:
            raise AttributeError(NO_WEIGHT.format(type(self).__name__))
        return super().__getattr__(name)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
