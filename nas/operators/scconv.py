"""Self-calibrated convolution: a pooled view of the input decides, pixel by pixel, what passes.

Paper: Improving Convolutional Networks with Self-Calibrated Convolutions, CVPR 2020.
y = bn(K4 (bn(K3 x) * sigmoid(x + up(bn(K2 pool(x)))))).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nas import kernels
from nas.operators.common import BatchNorm2d, kaiming_, project, reset_norms
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
    check_kept,
    check_only,
    made,
    window,
)

LARGEST_STRIDE = 8


class ClampedAvgPool2d(nn.Module):
    """Average pooling by `window`, which shrinks to the map where the map is smaller."""

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, (min(self.window, x.shape[2]), min(self.window, x.shape[3])))


class SelfCalibratedConv2d(nn.Module):
    """The calibrated branch, [N,C,H,W] -> [N,C,ceil(H/s),ceil(W/s)], normalised, named as in the published module.

    Beyond the published module: maps smaller than the pooling window, and training with one pooled value per channel
    (running statistics are taken there). `norm_layer` makes the norms. Raises ValueError for a wrong option.
    """

    normalizes = True

    def __init__(
        self,
        channels: int,
        stride: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
        pooling: int = 4,
        *,
        norm_layer: NormLayer = BatchNorm2d,
    ):
        super().__init__()
        self.__module__ = LEAF
        check_counts(channels=channels, pooling=pooling)
        check_divides("groups", groups, channels)
        sizes = window(3, stride, "same", dilation)
        if max(sizes.stride) > LARGEST_STRIDE:
            raise ValueError(
                f"stride = {stride!r}: allowed is up to {LARGEST_STRIDE}; the arguments are (channels, stride, "
                "dilation, groups, pooling), and SCConv(in_channels, out_channels) is of any widths"
            )
        self.kernel_size, self.stride, self.groups = sizes.kernel_size, sizes.stride, groups
        self.padding, self.dilation = sizes.padding, sizes.dilation
        self.normalizes = norm_layer is not None

        def conv(stride: Size) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, stride, sizes.padding, sizes.dilation, groups, bias=False)  # type: ignore

        self.k2 = nn.Sequential(ClampedAvgPool2d(pooling), conv(1), made(norm_layer, channels))
        self.k3 = nn.Sequential(conv(1), made(norm_layer, channels))
        self.k4 = nn.Sequential(conv(sizes.stride), made(norm_layer, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All convolutions Kaiming normal by fan-out: each has a norm behind it."""
        kaiming_(self)
        reset_norms(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.k4(kernels.self_calibrated_gate(x, self.k3(x), self.k2(x)))


class SCConv(Layer, SelfCalibratedConv2d):
    """The full operator, [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)], normalised.

    The first half of the channels takes a plain 3x3 convolution with norm, the second half the calibrated branch, which
    has one channel more where the number is odd; of a single channel only the calibrated branch is left. It works at
    the narrower width; where the widths differ a 1x1 convolution goes before it (narrowing) or, with a norm of its own,
    after it (widening). No norm is needed behind it; `norm_layer=None` leaves out those inside.
    """

    shown = ("pooling",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        pooling: int = 4,
        norm_layer: NormLayer = BatchNorm2d,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        """Raises ValueError for a `kernel_size` other than 3, and for padding that does not keep the map."""
        check_counts(in_channels=in_channels, out_channels=out_channels)
        check_kept("self-calibrated convolution", 3, kernel_size, padding, dilation)
        check_only("bias", bias, False, "its norms add one")
        width = min(in_channels, out_channels)
        plain = width // 2
        check_divides("groups", groups, *filter(None, (plain, width - plain)))
        with built_on(device):
            super().__init__(width - plain, stride, dilation, groups, pooling, norm_layer=norm_layer)
            self.in_channels, self.out_channels, self.pooling = in_channels, out_channels, pooling
            self.bias = None
            self.halves = (plain, width - plain)
            self.before = project(in_channels, width)
            self.k1 = None
            if plain:
                geometry = (self.stride, self.padding, self.dilation, groups)
                conv = nn.Conv2d(plain, plain, 3, *geometry, bias=False)  # type: ignore[arg-type]
                self.k1 = nn.Sequential(conv, made(norm_layer, plain))
            self.after = nn.Identity()
            if out_channels > width:
                self.after = nn.Sequential(project(width, out_channels), made(norm_layer, out_channels))
            self.reset_parameters()
        if dtype is not None:
            self.to(dtype)

    @classmethod
    def told_by(cls, conv: nn.Conv2d) -> dict[str, Any]:
        told = super().told_by(conv)
        return {name: told[name] for name in ("kernel_size", "padding", "dilation", "groups")}

    def on_maps(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        if self.k1 is None:
            return self.after(SelfCalibratedConv2d.forward(self, x))
        plain, calibrated = x.split(self.halves, 1)
        return self.after(torch.cat((self.k1(plain), SelfCalibratedConv2d.forward(self, calibrated)), 1))
