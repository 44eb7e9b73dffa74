"""Recursive gated convolution: spatial interactions of order n + 1 by repeated gating of growing width.

Paper: HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions, NeurIPS 2022,
https://arxiv.org/abs/2207.14284
p, a = split(W_in x),  a' = scale * D a,  y_0 = p * a'_0,  y_i = (W_i y_{i-1}) * a'_i,  output W_out y_{n-1}.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from nas import kernels
from nas.operators.common import (
    HORNET_STD,
    ChannelLayerNorm,
    hornet_,
    normal_,
    reset_norms,
    undrawn,
    unit_,
    unit_normal_,
)
from nas.operators.layer import (
    LEAF,
    Device,
    Layer,
    Padding,
    Size,
    built_on,
    check_counts,
    check_kept,
    check_number,
    check_only,
    pair,
)

FILTER_GAIN = math.sqrt(1 / 3)
"""Of the window's weights at the start, as torch draws them: small weights learn the shape of a filter sooner."""
GLOBAL_GAIN = 0.1
"""Of both halves of the global-local filter at the start, before its last norm."""
LARGEST_ORDER = 8


class GlobalLocalFilter(nn.Module):
    """Half of the channels through a 3x3 depthwise convolution, half through a global filter, between two norms.

    [N,C,H,W] -> [N,C,H,W], the halves interleaved; of an odd number the local half has one more, put last. `grid` is
    the shape (rows, columns) of the learnt half spectrum, (14, 8) for a 14x14 map; it is resized bilinearly for other
    maps. The transform runs in float32 (float64 for float64 input). Raises ValueError for fewer than two channels.
    `matrices` are those of the filter for square maps of its grid, kept by the inference form of a network; not in the
    state dict.
    """

    matrices: torch.Tensor | None

    def __init__(self, channels: int, grid: tuple[int, int]):
        super().__init__()
        check_counts(channels=channels)
        if channels < 2:
            raise ValueError(f"channels = {channels!r}: allowed is 2 or more")
        grid = pair("grid", grid)
        self.spectral = channels // 2
        self.local = channels - self.spectral
        self.dw = undrawn(nn.Conv2d, self.local, self.local, 3, padding=1, groups=self.local, bias=False)
        self.complex_weight = nn.Parameter(torch.empty(self.spectral, *grid, 2))
        self.pre_norm = ChannelLayerNorm(channels)
        self.post_norm = ChannelLayerNorm(channels)
        self.register_buffer("matrices", None, persistent=False)
        self.register_load_state_dict_post_hook(_renew_matrices)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both halves start as random filters of equal gain: of a neighbourhood, and of the whole map.

        A norm follows; small weights learn the shape of a filter sooner.
        """
        reset_norms(self)
        unit_normal_(self.dw.weight, GLOBAL_GAIN)
        normal_(self.complex_weight, GLOBAL_GAIN * math.sqrt(0.5))  # real and imaginary part of each frequency

    def reset_as_published(self) -> None:
        hornet_(self.dw)
        normal_(self.complex_weight, HORNET_STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        local, spectral = self.pre_norm(x).split((self.local, self.spectral), 1)
        local = kernels.depthwise_conv2d(local, self.dw.weight)
        kept = self.matrices
        if kept is not None and not x.shape[2] == x.shape[3] == self.complex_weight.shape[1]:
            kept = None
        spectral = kernels.global_filter(spectral, self._weight(x.shape[2], x.shape[3] // 2 + 1), kept)
        both = torch.stack((local[:, : self.spectral], spectral), 2).flatten(1, 2)
        return self.post_norm(torch.cat((both, local[:, self.spectral :]), 1))

    def keep_matrices(self) -> None:
        """For weights that stay as they are."""
        side, columns = self.complex_weight.shape[1:3]
        if columns == side // 2 + 1:
            self.matrices = kernels.kept_matrices(self.complex_weight.detach(), side, side)

    def _weight(self, rows: int, columns: int) -> torch.Tensor:
        if self.complex_weight.shape[1:3] == (rows, columns):
            return self.complex_weight
        parts = self.complex_weight.permute(3, 0, 1, 2)
        return F.interpolate(parts, (rows, columns), mode="bilinear", align_corners=True).permute(1, 2, 3, 0)


def _renew_matrices(module: GlobalLocalFilter, _: Any) -> None:
    """After other weights were loaded."""
    if module.matrices is not None:
        module.keep_matrices()


class GnConv2d(nn.Module):
    """[N,C,H,W] -> [N,C,H,W], parameters named as in the published module.

    Step i has width max(1, C // 2^(order-1-i)) for every C. Where C is a multiple of 2^(order-1) that is the published
    module; elsewhere `proj_in` has as many outputs as gate and steps need. `out_channels` other than C are those of
    `proj_out` alone. Under float16 autocast the recursion and
    the last 1x1 stay in float32: a polynomial of degree order + 1 leaves the range of float16.
    """

    normalizes = False

    def __init__(
        self,
        channels: int,
        order: int = 3,
        scale: float = 1 / 3,
        filter: Literal["depthwise7", "global"] = "depthwise7",
        grid: tuple[int, int] | None = None,
        *,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.__module__ = LEAF
        check_counts(channels=channels, order=order)
        if order > LARGEST_ORDER:
            raise ValueError(
                f"order = {order!r}: allowed is up to {LARGEST_ORDER}; the arguments are (channels, order, scale, "
                "filter, grid), and GnConv(in_channels, out_channels) is of any widths"
            )
        check_number("scale", scale, -math.inf, math.inf)
        if filter not in ("depthwise7", "global"):
            raise ValueError(f"filter = {filter!r}: allowed is 'depthwise7' or 'global'")
        if filter == "global" and grid is None:
            raise ValueError("grid = None: allowed is (rows, columns) where filter = 'global'")
        self.dims = [max(1, channels // 2 ** (order - 1 - i)) for i in range(order)]
        self.scale = scale
        steps = sum(self.dims)
        self.proj_in = undrawn(nn.Conv2d, channels, self.dims[0] + steps, 1)
        self.dwconv = undrawn(nn.Conv2d, steps, steps, 7, padding=3, groups=steps)
        if grid and filter == "global":
            self.dwconv = GlobalLocalFilter(steps, grid)
        self.pws = nn.ModuleList(
            undrawn(nn.Conv2d, d, wider, 1) for d, wider in zip(self.dims, self.dims[1:], strict=False)
        )
        self.proj_out = undrawn(nn.Conv2d, channels, out_channels or channels, 1)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as a window of unit gain between two 1x1 convolutions, to which every order adds a share.

        With random factors all alike the output is a product of order + 1 of them: it vanishes (HorNet's own start,
        made for a long training behind LayerNorm and layer scale), or a few of its values are hundreds of deviations
        large. Here step i multiplies its filtered signal a'_i by c + u_i: c is a bias, u_i of mean square 1 comes from
        the step before (u_0 from the gate p), and c a'_i has mean square 1. So u / c, 0.19 for the published scale of
        1/3, is the share of each interaction, every step is alive, all channels pass through the last one, and the
        output is distributed as a convolution's for every order.
        """
        first, pws = self.dims[0], list[Any](self.pws)
        for layer in (self.proj_in, *pws, self.proj_out):
            unit_(layer)
        gain = FILTER_GAIN
        if isinstance(self.dwconv, GlobalLocalFilter):
            self.dwconv.reset_parameters()
            gain = 1.0  # its last norm
            normal_(self.proj_in.bias[first:], 0.5)  # its first norm: pixels that are 0 would have gradients of 1/eps
        else:
            unit_(self.dwconv, gain)
        constant = 1 / (gain * (abs(self.scale) or 1.0))
        nn.init.constant_(self.proj_in.bias[:first], constant)
        for pw in pws:
            nn.init.constant_(pw.bias, constant)

    @torch.no_grad()
    def reset_as_published(self) -> None:
        """HorNet's start: weights of N(0, 0.02), biases 0."""
        for layers in (self.proj_in, self.pws, self.proj_out):
            hornet_(layers)
        if isinstance(self.dwconv, GlobalLocalFilter):
            self.dwconv.reset_as_published()
        else:
            hornet_(self.dwconv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, steps = self.proj_in(x).split((self.dims[0], sum(self.dims)), 1)
        full_range = _float16_autocast(x.device.type)
        # the first gate is an epilogue of the window; with a gradient the ungated values are needed too
        fused = not torch.is_grad_enabled() and not full_range and isinstance(self.dwconv, nn.Conv2d)
        fused = fused and not torch.jit.is_tracing()  # of which graphs with and without gradients are compared
        first, others = self._filtered(steps, gate if fused else None).split((self.dims[0], sum(self.dims[1:])), 1)
        if full_range:
            gate, first, others = gate.float(), first.float(), others.float()
        weights, biases = zip(*((pw.weight, pw.bias) for pw in self.pws), strict=True) if self.pws else ((), ())
        with torch.autocast(x.device.type, enabled=False) if full_range else nullcontext():
            y = first if fused else kernels.gnconv_gate(gate, first)
            return kernels.gnconv_recursion(y, others, weights, biases, self.proj_out.weight, self.proj_out.bias)

    def _filtered(self, steps: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
        if not isinstance(self.dwconv, nn.Conv2d):
            return self.dwconv(steps) * self.scale
        return kernels.depthwise_conv2d(steps, self.dwconv.weight, self.dwconv.bias, scale=self.scale, gate=gate)


class GnConv(Layer, GnConv2d):
    """gnConv from any width to any, with any stride: [N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)].

    The recursion has the width of the input; only the last 1x1 changes it. A stride averages the input over s x s
    windows (at the border over what is there) before anything else: all later work is then on the small map. Keep a
    norm before it.
    """

    shown = ("order", "filter")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 7,
        stride: Size = 1,
        padding: Padding = "same",
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        order: int = 3,
        scale: float = 1 / 3,
        filter: Literal["depthwise7", "global"] = "depthwise7",
        grid: tuple[int, int] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        """Raises ValueError for a `kernel_size` other than 7, that of the depthwise filter, and for what gnConv has
        not: a dilation, groups, padding that does not keep the map."""
        check_counts(in_channels=in_channels, out_channels=out_channels)
        check_only("dilation", pair("dilation", dilation), (1, 1), "gnConv's filter is 7x7 or global")
        check_only("groups", groups, 1, "gnConv's filter takes each channel by itself")
        check_kept("gnConv", 7, kernel_size, padding, 1)
        with built_on(device):
            super().__init__(in_channels, order, scale, filter, grid, out_channels=out_channels)
            self.in_channels, self.out_channels, self.order, self.filter = in_channels, out_channels, order, filter
            self.kernel_size, self.stride = (7, 7), pair("stride", stride)
            self.padding, self.dilation, self.groups = (3, 3), (1, 1), 1
            if not bias:
                self.proj_out.bias = None
        if dtype is not None:
            self.to(dtype)

    @classmethod
    def told_by(cls, conv: nn.Conv2d) -> dict[str, Any]:
        """Its own window of 7x7 takes the place of one that keeps the map."""
        check_kept("gnConv", conv.kernel_size[0], conv.kernel_size, conv.padding, conv.dilation)  # type: ignore
        return {"bias": conv.bias is not None}

    @property
    def bias(self) -> nn.Parameter | None:
        """That of the last 1x1 convolution."""
        return self.proj_out.bias

    def on_maps(self, x: torch.Tensor) -> torch.Tensor:
        return GnConv2d.forward(self, F.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride != (1, 1) else x)


def _float16_autocast(device_type: str) -> bool:
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return False
    return torch.get_autocast_dtype(device_type) == torch.float16
