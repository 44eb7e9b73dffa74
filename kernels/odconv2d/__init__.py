"""Omni-dimensional dynamic convolution: n kernels, mixed and scaled for each sample along four dimensions.

Paper: Omni-Dimensional Dynamic Convolution, ICLR 2022, https://openreview.net/forum?id=DmpCfq6Mg39
y_b = filter_b * conv(channel_b * x_b, spatial_b * sum_m kernel_bm weight_m).
"""

from __future__ import annotations

import torch

from kernels import dispatch
from kernels.odconv2d import aten, reference


def odconv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    channel: torch.Tensor | None = None,
    filter: torch.Tensor | None = None,
    spatial: torch.Tensor | None = None,
    kernel: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """x [N,C,H,W], weight [n,C',C/groups,Kh,Kw] -> [N,C',H',W'].

    Factors, each None (= 1) or of any shape with these elements: channel [N,C], filter [N,C'], spatial [N,Kh*Kw],
    kernel [N,n]. Without `kernel` the n kernels are summed. FLOPs counted are those of the form that runs; at N = 1
    that is the convolution and the mixing of one kernel.
    """
    n, (num_kernels, out_channels, _, kernel_h, kernel_w) = x.shape[0], weight.shape
    channel = None if channel is None else channel.reshape(n, x.shape[1], 1, 1)
    filter = None if filter is None else filter.reshape(n, out_channels, 1, 1)
    spatial = None if spatial is None else spatial.reshape(n, 1, 1, 1, kernel_h, kernel_w)
    kernel = None if kernel is None else kernel.reshape(n, num_kernels, 1, 1, 1, 1)
    run = {"aten": aten.odconv2d, "reference": reference.odconv2d}[dispatch.choose("odconv2d")]
    return run(x, weight, channel, filter, spatial, kernel, _pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
