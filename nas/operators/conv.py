"""Convolution: dense, grouped, or depthwise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

import kernels
from nas.operators.common import kaiming_, largest_divisor, project


class Conv(nn.Conv2d):
    """Convolution, padded to keep the map: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    `groups` is lowered to the largest divisor of both widths. Depthwise convolution works at the narrower width; where
    the widths differ a 1x1 convolution goes before it (narrowing) or after it (widening). Kaiming normal, fan-out.
    """

    normalizes = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
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
        kaiming_(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.before(input)
        if self.groups == self.in_channels == self.out_channels > 1 and self.dilation == (1, 1):
            x = kernels.depthwise_conv2d(x, self.weight, self.bias, self.stride)
        else:
            x = kernels.conv2d(x, self.weight, self.bias, self.stride, self.same, self.dilation, self.groups)
        return self.after(x)
