"""Involution: each pixel generates its own kernel, shared by the channels of a group.

Paper: Involution: Inverting the Inherence of Convolution for Visual Recognition, CVPR 2021,
https://arxiv.org/abs/2103.06255
kernel = W2 relu(bn(W1 pool(x))),  y[c,h,w] = sum_ij kernel[g(c),i,j,h,w] * x[c, h*s+i*d-p, w*s+j*d-p].
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

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
    made,
    shifted,
    window,
)

GENERATED = 0.2
"""Norm of the part of a kernel that depends on its pixel, at the start."""
LARGEST = 31
"""Rows and columns of a kernel."""


class Involution2d(nn.Module):
    """[N,C,H,W] -> [N,C,ceil(H/s),ceil(W/s)], parameters named as in the published module.

    Beyond the published module: a group has the largest divisor of C not above `group_channels` as its width, unless
    their number is given by `groups`; the generator has at least one channel; with a stride the generator pools in ceil
    mode (the average of what is there), so that odd maps fit; a dilation; less padding, where only pixels whose window
    ends inside the padded map have an output. With frozen norms the output is quadratic in the input: clip gradients.
    `norm_layer` makes the norm of the generator. Raises ValueError for a wrong option.
    """

    normalizes = False

    def __init__(
        self,
        channels: int,
        kernel_size: Size = 7,
        stride: Size = 1,
        group_channels: int = 16,
        reduction: int = 4,
        dilation: Size = 1,
        *,
        padding: Padding = "same",
        groups: int | None = None,
        norm_layer: NormLayer = BatchNorm2d,
    ):
        super().__init__()
        self.__module__ = LEAF
        check_counts(channels=channels, group_channels=group_channels, reduction=reduction)
        sizes, whole = window(kernel_size, stride, padding, dilation), window(kernel_size, stride, "same", dilation)
        if any(size % 2 == 0 or size > LARGEST for size in sizes.kernel_size):
            raise ValueError(
                f"kernel_size = {kernel_size!r}: allowed is an odd number up to {LARGEST}; of other widths than "
                "the input's is Involution(in_channels, out_channels, kernel_size)"
            )
        self.cut = whole.padding[0] - sizes.padding[0], whole.padding[1] - sizes.padding[1]
        if min(self.cut) < 0:
            raise ValueError(f"padding = {padding!r}: allowed is 'same', 'valid' or up to {whole.padding}")
        if groups is not None:
            check_divides("groups", groups, channels)
        self.in_channels = self.out_channels = channels
        self.kernel_size, self.stride = sizes.kernel_size, sizes.stride
        self.padding, self.dilation = sizes.padding, sizes.dilation
        self.groups = groups or channels // largest_divisor(channels, group_channels)
        hidden, taps = max(channels // reduction, 1), math.prod(sizes.kernel_size)
        self.conv1 = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(channels, hidden, 1, bias=False), bn=made(norm_layer, hidden), act=nn.ReLU())
        )
        self.conv2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(hidden, taps * self.groups, 1)))
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
        taps = math.prod(self.kernel_size)
        unit_normal_(span.weight, GENERATED * math.sqrt(2 / taps))
        kernel = torch.full((taps,), 1 / math.sqrt(taps), device="cpu")  # where a norm is also known of a meta network
        kernel[taps // 2] += 1
        span.bias.copy_((kernel / kernel.norm()).repeat(self.groups))

    def reset_as_published(self) -> None:
        """RedNet's start: both convolutions Kaiming normal by fan-out, biases 0."""
        kaiming_(self.conv1)
        kaiming_(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.pad(x, (-self.cut[1], -self.cut[1], -self.cut[0], -self.cut[0])) if any(self.cut) else x
        if self.stride != (1, 1):
            pooled = F.avg_pool2d(pooled, self.stride, ceil_mode=True)
        span = self.conv2.conv
        assert isinstance(span, nn.Conv2d)
        features, geometry = self.conv1(pooled), (self.kernel_size, self.stride, self.padding, self.dilation)
        return kernels.spanned_involution(x, features, span.weight, span.bias, *geometry)


class Involution(Layer, Involution2d):
    """Involution from any width to any: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    It works at the narrower width; where the widths differ a 1x1 convolution without bias goes before it (narrowing) or
    after it (widening). `groups` is the number of kernels at a pixel, by default one for `group_channels` channels.
    Keep a norm behind it, and clip gradients.
    """

    shown = ("reduction",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 7,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: Size = 1,
        groups: int | None = None,
        bias: bool = False,
        *,
        group_channels: int = 16,
        reduction: int = 4,
        norm_layer: NormLayer = BatchNorm2d,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_counts(in_channels=in_channels, out_channels=out_channels)
        width = min(in_channels, out_channels)
        options: dict[str, Any] = {"padding": padding, "groups": groups, "norm_layer": norm_layer}
        with built_on(device):
            super().__init__(width, kernel_size, stride, group_channels, reduction, dilation, **options)
            self.in_channels, self.out_channels, self.reduction = in_channels, out_channels, reduction
            self.before = project(in_channels, width)
            self.after = project(width, out_channels)
            self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
            reset_projections(self)
        if dtype is not None:
            self.to(dtype)

    @classmethod
    def told_by(cls, conv: nn.Conv2d) -> dict[str, Any]:
        told = super().told_by(conv)
        return {name: told[name] for name in ("kernel_size", "padding", "dilation", "bias")}

    def reset_parameters(self) -> None:
        super().reset_parameters()
        reset_projections(self)

    def on_maps(self, x: torch.Tensor) -> torch.Tensor:
        return shifted(self.after(Involution2d.forward(self, self.before(x))), self.bias)
