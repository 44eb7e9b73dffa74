"""Involution: each pixel generates its own kernel, shared by the channels of a group.

Paper: Involution: Inverting the Inherence of Convolution for Visual Recognition, CVPR 2021,
https://arxiv.org/abs/2103.06255
kernel = W2 relu(bn(W1 pool(x))),  y[c,h,w] = sum_ij kernel[g(c),i,j,h,w] * x[c, h*s+i*d-p, w*s+j*d-p].
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from nas import kernels
from nas.operators.common import (
    BatchNorm2d,
    kaiming_,
    largest_divisor,
    project,
    reset_norms,
    reset_projections,
    unit_normal_,
)

GENERATED = 0.2
"""Norm of the part of a kernel that depends on its pixel, at the start."""


class Involution2d(nn.Module):
    """[N,C,H,W] -> [N,C,ceil(H/s),ceil(W/s)], parameters named as in the published module.

    Beyond the published module: a group has the largest divisor of C not above `group_channels` as its width; the
    generator has at least one channel; with a stride the generator pools in ceil mode (the average of what is there),
    so that odd maps fit; a dilation. With frozen norms the output is quadratic in the input: clip gradients.
    """

    normalizes = False

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        stride: int = 1,
        group_channels: int = 16,
        reduction: int = 4,
        dilation: int = 1,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size = {kernel_size!r}: allowed is an odd number")
        self.in_channels = self.out_channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.groups = channels // largest_divisor(channels, group_channels)
        hidden = max(channels // reduction, 1)
        self.conv1 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(channels, hidden, 1, bias=False), bn=BatchNorm2d(hidden), act=nn.ReLU())
        )
        self.conv2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(hidden, kernel_size**2 * self.groups, 1)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as one kernel for all pixels, half itself and half the average of its window, and a little of its own.

        That kernel, the bias of the generator, has norm 1; what the generator makes of each pixel has the norm
        GENERATED. With the authors' start the kernel is random, of norm 2 and another at every pixel: the output is a
        product of the input with random noise, whose outliers grow with depth.
        """
        generator, span = self.conv1.conv, self.conv2.conv
        assert isinstance(generator, nn.Conv2d) and isinstance(span, nn.Conv2d) and span.bias is not None
        reset_norms(self)
        unit_normal_(generator.weight, math.sqrt(2))
        # features behind norm and ReLU have mean square 1/2
        unit_normal_(span.weight, GENERATED * math.sqrt(2) / self.kernel_size)
        taps = self.kernel_size**2
        kernel = torch.full((taps,), 1 / self.kernel_size)
        kernel[taps // 2] += 1
        span.bias.copy_((kernel / kernel.norm()).repeat(self.groups))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"dilation={self.dilation}, groups={self.groups}"
        )

    def reset_as_published(self) -> None:
        """RedNet's start: both convolutions Kaiming normal by fan-out, biases 0."""
        kaiming_(self.conv1)
        kaiming_(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        span = self.conv2.conv
        assert isinstance(span, nn.Conv2d)
        features, geometry = self.conv1(pooled), (self.kernel_size, self.stride, None, self.dilation)
        return kernels.spanned_involution(x, features, span.weight, span.bias, *geometry)


class Involution(Involution2d):
    """Involution from any width to any: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    It works at the narrower width; where the widths differ a 1x1 convolution without bias goes before it (narrowing) or
    after it (widening).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        stride: int = 1,
        *,
        group_channels: int = 16,
        reduction: int = 4,
        dilation: int = 1,
    ):
        width = min(in_channels, out_channels)
        super().__init__(width, kernel_size, stride, group_channels, reduction, dilation)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.before = project(in_channels, width)
        self.after = project(width, out_channels)
        reset_projections(self)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset_projections(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(super().forward(self.before(x)))
