"""Convolution: dense, grouped, or depthwise."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn

from nas import kernels
from nas.operators.common import kaiming_normal_, largest_divisor, project, reset_projections, unit_


class Conv(nn.Conv2d):
    """Convolution, padded to keep the map: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    `groups` is lowered to the largest divisor of both widths. Depthwise convolution works at the narrower width; where
    the widths differ a 1x1 convolution goes before it (narrowing) or after it (widening).
    """

    normalizes = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int | Literal["depthwise"] = 1,
        bias: bool = False,
    ):
        depthwise = groups == "depthwise"
        width = min(in_channels, out_channels)
        inner, outer = (width, width) if depthwise else (in_channels, out_channels)
        count = width if groups == "depthwise" else largest_divisor(math.gcd(inner, outer), groups)
        same = dilation * (kernel_size - 1) // 2
        super().__init__(inner, outer, kernel_size, stride, same, dilation, count, bias=bias)
        self.same = same
        self.before = project(in_channels, inner)
        self.after = project(outer, out_channels)
        self.alone = in_channels == inner and outer == out_channels  # no 1x1 convolution before or after it
        self.depthwise = self.groups == self.in_channels == self.out_channels > 1 and self.dilation == (1, 1)
        reset_projections(self)

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
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.before(input)
        if self.depthwise:
            x = kernels.depthwise_conv2d(x, self.weight, self.bias, self.stride)
        else:
            x = kernels.conv2d(x, self.weight, self.bias, self.stride, self.same, self.dilation, self.groups)
        return self.after(x)


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
