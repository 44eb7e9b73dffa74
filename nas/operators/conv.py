"""Convolution: dense, grouped, or depthwise."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas import kernels
from nas.operators.common import kaiming_normal_, project, reset_projections, unit_
from nas.operators.layer import (
    LEAF,
    Device,
    Layer,
    Padding,
    Size,
    built_on,
    check_counts,
    check_divides,
    pad_beyond,
    window,
)


class Conv(Layer, nn.Conv2d):
    """Convolution, by default padded to keep the map: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    An ordinary one is of the class nn.Conv2d and nothing else once it is made, as tools want it that go by the exact
    class; it starts as `reset_parameters` here says. Of this class is a depthwise one, which has a kernel of its own.
    `groups="depthwise"` works at the narrower width; where the widths differ a 1x1 convolution goes before it
    (narrowing) or after it (widening). Raises ValueError for a wrong option.
    """

    normalizes = False

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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_counts(in_channels=in_channels, out_channels=out_channels)
        sizes = window(kernel_size, stride, padding, dilation)
        width = min(in_channels, out_channels)
        inner, outer = (width, width) if groups == "depthwise" else (in_channels, out_channels)
        count = width if groups == "depthwise" else groups
        check_divides("groups", count, inner, outer)
        geometry = (sizes.kernel_size, sizes.stride, sizes.padding, sizes.dilation, count)
        with built_on(device):
            super().__init__(inner, outer, *geometry, bias=bias)
            self.normalizes = False
            is_depthwise = count == inner == outer > 1 and sizes.dilation == (1, 1)
            if is_depthwise or inner < in_channels or outer < out_channels or any(sizes.beyond):
                self.__module__ = LEAF
                self.beyond = sizes.beyond
                self.in_channels, self.out_channels = in_channels, out_channels
                self.before, self.after = project(in_channels, inner), project(outer, out_channels)
                if outer < out_channels and not bias:
                    del self.bias  # whoever folds a norm by it is told that the weight is not the last one
                reset_projections(self)
            else:
                self.__class__ = nn.Conv2d  # type: ignore[assignment]
        if dtype is not None:
            self.to(dtype)

    def reset_parameters(self) -> None:
        """N(0, 2 / fan-in) of each filter, bias 0: with groups too an output has the size that ReLU wants.

        torch's Kaiming normal counts the fan-out without the groups, and starts a depthwise convolution sqrt(groups)
        times smaller.
        """
        unit_(self, math.sqrt(2))
        reset_projections(self)

    def reset_as_published(self) -> None:
        """Kaiming normal by fan-out, bias 0, as ResNet and MobileNetV2 start."""
        kaiming_normal_(self.weight)
        if (bias := self._parameters.get("bias")) is not None:
            nn.init.zeros_(bias)

    @torch.no_grad()
    def start_as(self, conv: nn.Conv2d) -> None:
        if conv.weight.shape == self.weight.shape:
            self.weight.copy_(conv.weight)
        if (bias := self._parameters.get("bias")) is not None and conv.bias is not None:
            bias.copy_(conv.bias)

    def on_maps(self, x: Tensor) -> Tensor:
        x, bias = pad_beyond(self.before(x), self.beyond), self._parameters.get("bias")
        if self.groups == len(self.weight) and self.dilation == (1, 1):
            return self.after(kernels.depthwise_conv2d(x, self.weight, bias, self.stride, self.padding))
        return self.after(kernels.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups))


class FusedConv2d(nn.Module):
    """activation(conv(x) + residual) in one operation, for inference; of the weights of a convolution.

    [N,C_in,H,W], residual [N,C_out,H',W'] or None -> [N,C_out,H',W'].
    """

    def __init__(self, layer: nn.Conv2d, activation: str | None):
        """activation: one that `kernels.conv2d` takes."""
        super().__init__()
        self.weight, self.bias, self.activation = layer.weight, layer.bias, activation
        self.geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        behind = {"activation": self.activation, "residual": residual}
        return kernels.conv2d(x, self.weight, self.bias, *self.geometry, **behind)
