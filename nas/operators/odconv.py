"""Omni-dimensional dynamic convolution: n kernels mixed and scaled for each sample by four attentions.

Paper: Omni-Dimensional Dynamic Convolution, ICLR 2022, https://openreview.net/forum?id=DmpCfq6Mg39
q = relu(bn(F mean(x))),  y = a_f * conv(a_c * x, a_s * sum_m a_w[m] W_m),  a = sigmoid or softmax of a linear map of q.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from nas import kernels
from nas.operators.common import (
    BatchNorm2d,
    kaiming_,
    kaiming_normal_,
    largest_divisor,
    normal_,
    project,
    reset_norms,
    reset_projections,
    unit_normal_,
)

OPENNESS = 2.0
"""Mean of the logits of the sigmoids at the start."""
FLATNESS = 0.1
"""Standard deviation of all logits at the start."""


class Attention(nn.Module):
    """The factors of one ODConv, [N,C,H,W] -> channel, filter, spatial, kernel, each [N,elements] or None.

    Without filter factors for depthwise, spatial ones for 1x1, kernel ones for a single kernel. In training the norm
    takes running statistics at batch 1.
    """

    def __init__(self, in_channels: int, out_channels: int, taps: int, groups: int, num_kernels: int, hidden: int):
        super().__init__()

        def head(elements: int, present: bool) -> nn.Conv2d | None:
            return nn.Conv2d(hidden, elements, 1) if present else None

        self.fc = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn = BatchNorm2d(hidden)
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
        q = self.bn(self.fc(x.mean((2, 3), keepdim=True))).relu()
        sigmoids = (self.channel_fc, self.filter_fc, self.spatial_fc)
        factors = [None if head is None else (head(q).flatten(1) / temperature).sigmoid() for head in sigmoids]
        kernel = None if self.kernel_fc is None else (self.kernel_fc(q).flatten(1) / temperature).softmax(1)
        return (*factors, kernel)


class ODConv2d(nn.Module):
    """[N,C_in,H,W] -> [N,C_out,H',W'] as a convolution of these sizes, parameters named as in the published module.

    `temperature` divides all logits; training lowers it from 30 to 1 over the first epochs. It is not in the state
    dict. Raises ValueError when `groups` does not divide both widths.
    """

    normalizes = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        num_kernels: int = 4,
        reduction: float = 1 / 16,
        min_attention_channels: int = 16,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups = {groups!r}: allowed is a divisor of {in_channels} and {out_channels}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.temperature = 1.0
        hidden = max(int(in_channels * reduction), min_attention_channels)
        self.attention = Attention(in_channels, out_channels, kernel_size**2, groups, num_kernels, hidden)
        self.weight = nn.Parameter(
            torch.empty(num_kernels, out_channels, in_channels // groups, kernel_size, kernel_size)
        )
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

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, num_kernels={len(self.weight)}"
        )

    def reset_as_published(self) -> None:
        """All weights Kaiming normal by fan-out, biases 0."""
        kaiming_(self.attention)
        kaiming_normal_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channel, filter, spatial, kernel = self.attention(x, self.temperature)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        y = kernels.odconv2d(x, self.weight, channel, filter, spatial, kernel, *geometry)
        return y if self.shift is None else y + self.shift


class ODConv(ODConv2d):
    """ODConv padded to keep the map: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    `groups` is lowered to the largest divisor of both widths. The depthwise form works at the narrower width; where the
    widths differ an ordinary 1x1 convolution goes before it (narrowing) or after it (widening).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        num_kernels: int = 4,
        reduction: float = 1 / 16,
        min_attention_channels: int = 16,
        dilation: int = 1,
        groups: int | Literal["depthwise"] = 1,
    ):
        depthwise = groups == "depthwise"
        width = min(in_channels, out_channels)
        inner, outer = (width, width) if depthwise else (in_channels, out_channels)
        count = width if groups == "depthwise" else largest_divisor(math.gcd(inner, outer), groups)
        padding = dilation * (kernel_size - 1) // 2
        attention = (num_kernels, reduction, min_attention_channels)
        super().__init__(inner, outer, kernel_size, stride, padding, dilation, count, *attention)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.before = project(in_channels, inner)
        self.after = project(outer, out_channels)
        reset_projections(self)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset_projections(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(super().forward(self.before(x)))
