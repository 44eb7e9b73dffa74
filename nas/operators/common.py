"""What several operators share: norms that survive tiny inputs, 1x1 projections, the group rule, initialisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics where a training batch has one value per channel.

    The variance of one value says nothing, and nn.BatchNorm2d raises there: batch 1 on a pooled 1x1 map.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps)
        return super().forward(input)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N,C,H,W], each pixel on its own."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def project(in_channels: int, out_channels: int) -> nn.Module:
    """1x1 convolution without bias, or nothing where the width does not change."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


def drawn_normal(kind: type[nn.Conv2d] | type[nn.Linear], *sizes: int, **options) -> Any:
    """A layer with weights of N(0, 0.02) and biases 0, HorNet's start, without the default one being drawn before.

    HorNet's own cuts the distribution at 100 standard deviations, which is no cut.
    """
    layer: Any = nn.utils.skip_init(kind, *sizes, device=torch.get_default_device(), **options)
    nn.init.normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is not above `at_most`."""
    return next(d for d in range(min(number, at_most), 0, -1) if number % d == 0)


def kaiming_(module: nn.Module) -> None:
    """Convolutions in `module`: Kaiming normal by fan-out with ReLU gain, biases 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
