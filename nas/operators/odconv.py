"""Omni-dimensional dynamic convolution: n kernels mixed and scaled for each sample by four attentions.

Paper: Omni-Dimensional Dynamic Convolution, ICLR 2022, https://openreview.net/forum?id=DmpCfq6Mg39
q = relu(bn(F mean(x))),  y = a_f * conv(a_c * x, a_s * sum_m a_w[m] W_m),  a = sigmoid or softmax of a linear map of q.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from nas import kernels
from nas.operators.common import (
    BatchNorm2d,
    kaiming_,
    kaiming_normal_,
    normal_,
    project,
    reset_norms,
    reset_projections,
    unit_normal_,
)
from nas.operators.layer import (
    LEAF,
    Device,
    Layer,
    NormLayer,
    Padding,
    Size,
    built_on,
    check_counts,
    check_divides,
    check_number,
    made,
    pad_beyond,
    shifted,
    window,
)

OPENNESS = 2.0
"""Mean of the logits of the sigmoids at the start."""
FLATNESS = 0.1
"""Standard deviation of all logits at the start."""


def set_temperature(model: nn.Module, temperature: float) -> int:
    """Set what divides the logits of every ODConv in a model; returns how many there are.

    The authors lower it from 30 to 1 over the first epochs: for epoch `e` of the first 10,
    `set_temperature(model, annealed(e, 10))`. Raises ValueError for a temperature of 0 or less.
    """
    check_number("temperature", temperature, 0, math.inf)
    layers = [module for module in model.modules() if isinstance(module, ODConv2d)]
    for layer in layers:
        layer.temperature = float(temperature)
    return len(layers)


def annealed(time: float, duration: float, start: float = 30.0) -> float:
    """The temperature at a time, in epochs or steps: from `start` in a straight line to 1 after `duration`, then 1."""
    return max(1.0, start - (start - 1.0) * time / duration) if duration > 0 else 1.0


class Attention(nn.Module):
    """The factors of one ODConv, [N,C,H,W] -> channel, filter, spatial, kernel, each [N,elements] or None.

    Without filter factors for depthwise, spatial ones for 1x1, kernel ones for a single kernel. In training the norm
    takes running statistics at batch 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        taps: int,
        groups: int,
        num_kernels: int,
        hidden: int,
        norm_layer: NormLayer = BatchNorm2d,
    ):
        super().__init__()

        def head(elements: int, present: bool) -> nn.Conv2d | None:
            return nn.Conv2d(hidden, elements, 1) if present else None

        self.avgpool = nn.AdaptiveAvgPool2d(1)  # a module: counters then know that not all work grows with the map
        self.fc = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn = made(norm_layer, hidden)
        self.channel_fc = head(in_channels, True)
        self.filter_fc = head(out_channels, not groups == in_channels == out_channels)
        self.spatial_fc = head(taps, taps > 1)
        self.kernel_fc = head(num_kernels, num_kernels > 1)

    @property
    def heads(self) -> list[nn.Conv2d]:
        """Those that are there."""
        found = (self.channel_fc, self.filter_fc, self.spatial_fc, self.kernel_fc)
        return [head for head in found if head is not None]

    def forward(self, x: torch.Tensor, temperature: float) -> tuple[torch.Tensor | None, ...]:
        q = self.bn(self.fc(self.avgpool(x))).relu()
        sigmoids = (self.channel_fc, self.filter_fc, self.spatial_fc)
        factors = [None if head is None else (head(q).flatten(1) / temperature).sigmoid() for head in sigmoids]
        kernel = None if self.kernel_fc is None else (self.kernel_fc(q).flatten(1) / temperature).softmax(1)
        return (*factors, kernel)


class ODConv2d(nn.Module):
    """[N,C_in,H,W] -> [N,C_out,H',W'] as a convolution of these sizes, parameters named as in the published module.

    `temperature` divides all logits; training lowers it from 30 to 1 over the first epochs (`set_temperature`). In
    the state dict it is `temperature` where it is not 1; one without it, as the published, leaves it as it is.
    `norm_layer` makes the norm of the attention. Raises ValueError for a wrong option.
    """

    normalizes = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        num_kernels: int = 4,
        reduction: float = 1 / 16,
        min_attention_channels: int = 16,
        *,
        bias: bool = False,
        norm_layer: NormLayer = BatchNorm2d,
    ):
        super().__init__()
        self.__module__ = LEAF
        counts = {"num_kernels": num_kernels, "min_attention_channels": min_attention_channels}
        check_counts(in_channels=in_channels, out_channels=out_channels, **counts)
        check_divides("groups", groups, in_channels, out_channels)
        check_number("reduction", reduction, 0, 1)
        sizes = window(kernel_size, stride, padding, dilation)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = sizes.kernel_size, sizes.stride
        self.padding, self.dilation, self.beyond = sizes.padding, sizes.dilation, sizes.beyond
        self.num_kernels = num_kernels
        self.temperature = 1.0
        hidden, taps = max(int(in_channels * reduction), min_attention_channels), math.prod(sizes.kernel_size)
        self.attention = Attention(in_channels, out_channels, taps, groups, num_kernels, hidden, norm_layer)
        self.weight = nn.Parameter(torch.empty(num_kernels, out_channels, in_channels // groups, *sizes.kernel_size))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        self.shift: torch.Tensor | None
        self.register_buffer("shift", None)  # of a norm folded into the kernels, [C_out, 1, 1]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the convolution that the mean kernel makes: attention is nearly the same for every input.

        With logits of unit size, as the authors start, a new network multiplies its signal by four random factors for
        each image. Here all logits have a standard deviation of FLATNESS, about 0 for the mix of kernels and about
        OPENNESS for the sigmoids, which then take little from the signal. The kernels start as a convolution's: larger
        ones, up to unit size behind the attention, would learn as much more slowly.
        """
        attention = self.attention
        reset_norms(attention)
        unit_normal_(attention.fc.weight, math.sqrt(2))
        for head in attention.heads:
            assert head.bias is not None
            unit_normal_(head.weight, FLATNESS)
            nn.init.constant_(head.bias, 0.0 if head is attention.kernel_fc else OPENNESS)
        normal_(self.weight, math.sqrt(2 / math.prod(self.weight.shape[2:])))
        self._reset_bias()

    def reset_as_published(self) -> None:
        """All weights Kaiming normal by fan-out, biases 0."""
        kaiming_(self.attention)
        kaiming_normal_(self.weight)
        self._reset_bias()

    def _reset_bias(self) -> None:
        if "bias" in self._parameters:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel, filter, spatial, kernel = self.attention(x, self.temperature)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        x = pad_beyond(x, self.beyond)
        y = kernels.odconv2d(x, self.weight, channel, filter, spatial, kernel, *geometry)
        y = shifted(y, self._parameters.get("bias"))
        return y if self.shift is None else y + self.shift

    def _apply(self, fn: Callable, recurse: bool = True) -> Any:
        """What converts parameters sees the kernels as one: torch has no channels_last of five dimensions."""

        def each(t: torch.Tensor) -> torch.Tensor:
            return fn(t.flatten(0, 1)).unflatten(0, t.shape[:2]) if t.dim() == 5 else fn(t)

        return super()._apply(each, recurse)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.temperature != 1.0:
            destination[f"{prefix}temperature"] = torch.tensor(self.temperature, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *others: Any) -> None:
        self.temperature = float(state_dict.pop(f"{prefix}temperature", self.temperature))
        super()._load_from_state_dict(state_dict, prefix, *others)


class ODConv(Layer, ODConv2d):
    """ODConv, by default padded to keep the map: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    `groups="depthwise"` works at the narrower width; where the widths differ an ordinary 1x1 convolution goes before it
    (narrowing) or after it (widening). Lower its temperature in the first epochs, by `set_temperature`.
    """

    shown = ("num_kernels",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: Size = 1,
        groups: int | Literal["depthwise"] = 1,
        bias: bool = False,
        *,
        num_kernels: int = 4,
        reduction: float = 1 / 16,
        min_attention_channels: int = 16,
        norm_layer: NormLayer = BatchNorm2d,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_counts(in_channels=in_channels, out_channels=out_channels)
        width = min(in_channels, out_channels)
        inner, outer = (width, width) if groups == "depthwise" else (in_channels, out_channels)
        count = width if groups == "depthwise" else groups
        attention = (num_kernels, reduction, min_attention_channels)
        options: dict[str, Any] = {"bias": bias, "norm_layer": norm_layer}
        with built_on(device):
            super().__init__(inner, outer, kernel_size, stride, padding, dilation, count, *attention, **options)
            self.in_channels, self.out_channels = in_channels, out_channels
            self.before = project(in_channels, inner)
            self.after = project(outer, out_channels)
            reset_projections(self)
        if dtype is not None:
            self.to(dtype)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset_projections(self)

    @torch.no_grad()
    def start_as(self, conv: nn.Conv2d) -> None:
        """All kernels are that of the convolution, over what the sigmoids leave of a signal at the start."""
        if conv.weight.shape != self.weight.shape[1:]:
            return
        sigmoids = [head for head in self.attention.heads if head is not self.attention.kernel_fc]
        self.weight.copy_(conv.weight * (1 + math.exp(-OPENNESS)) ** len(sigmoids))
        if conv.bias is not None and "bias" in self._parameters:
            self.bias.copy_(conv.bias)

    def on_maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(ODConv2d.forward(self, self.before(x)))
