"""Self-calibrated convolution: a pooled view of the input decides, pixel by pixel, what passes.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020.
y = bn(K4 (bn(K3 x) * sigmoid(x + up(bn(K2 pool(x)))))).
"""

from __future__ import annotations

import torch
from torch import nn

from nas import kernels
from nas.operators.common import BatchNorm2d, kaiming_, project, reset_norms


class ClampedAvgPool2d(nn.Module):
    """Average pooling by `window`, which shrinks to the map where the map is smaller."""

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.average_pool2d(x, (min(self.window, x.shape[2]), min(self.window, x.shape[3])))


class SelfCalibratedConv2d(nn.Module):
    """The calibrated branch, [N,C,H,W] -> [N,C,ceil(H/s),ceil(W/s)], normalised, named as in the published module.

    Beyond the published module: maps smaller than the pooling window, and training with one pooled value per channel
    (running statistics are taken there). Raises ValueError when `groups` does not divide the channels.
    """

    normalizes = True

    def __init__(self, channels: int, stride: int = 1, dilation: int = 1, groups: int = 1, pooling: int = 4):
        super().__init__()
        if channels % groups:
            raise ValueError(f"groups = {groups!r}: allowed is a divisor of {channels}")

        def conv(stride: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups, bias=False)

        self.k2 = nn.Sequential(ClampedAvgPool2d(pooling), conv(1), BatchNorm2d(channels))
        self.k3 = nn.Sequential(conv(1), BatchNorm2d(channels))
        self.k4 = nn.Sequential(conv(stride), BatchNorm2d(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All convolutions Kaiming normal by fan-out: each has a norm behind it."""
        kaiming_(self)
        reset_norms(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k4(kernels.self_calibrated_gate(x, self.k3(x), self.k2(x)))


class SCConv(SelfCalibratedConv2d):
    """The full operator, [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)], normalised.

    The first half of the channels takes a plain 3x3 convolution with norm, the second half the calibrated branch, which
    has one channel more where the number is odd; of a single channel only the calibrated branch is left. It works at
    the narrower width; where the widths differ a 1x1 convolution goes before it (narrowing) or, with a norm of its own,
    after it (widening).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        pooling: int = 4,
        dilation: int = 1,
    ):
        """Raises ValueError for a `kernel_size` other than 3."""
        if kernel_size != 3:
            raise ValueError(f"kernel_size = {kernel_size!r}: allowed is 3")
        width = min(in_channels, out_channels)
        plain = width // 2
        super().__init__(width - plain, stride, dilation, 1, pooling)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.halves = (plain, width - plain)
        self.before = project(in_channels, width)
        self.k1 = None
        if plain:
            self.k1 = nn.Sequential(
                nn.Conv2d(plain, plain, 3, stride, dilation, dilation, bias=False), BatchNorm2d(plain)
            )
        self.after = nn.Identity()
        if out_channels > width:
            self.after = nn.Sequential(project(width, out_channels), BatchNorm2d(out_channels))
        self.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        if self.k1 is None:
            return self.after(super().forward(x))
        plain, calibrated = x.split(self.halves, 1)
        return self.after(torch.cat((self.k1(plain), super().forward(calibrated)), 1))
