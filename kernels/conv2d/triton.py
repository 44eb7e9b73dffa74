"""Convolution in one launch: a product over the pixels of all images, with scale, shift, residual, activation."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .._core.geometry import out_size
from .._core.prepared import start
from .._core.tensors import channels_inside, new_map
from .._triton.product import forward_axes, product_launch

Config = Mapping[str, int] | None


def forward(
    x, weight, bias, scale, shift, residual, stride, padding, dilation, groups, activation, config: Config = None
) -> torch.Tensor:
    """x [N,C,H,W], weight [C',C/g,Kh,Kw], residual [N,C',H',W'] or None, the others [C'] or None -> [N,C',H',W']
    channels_last."""
    x = channels_inside(x)
    if bias is not None and scale is not None:
        bias = bias * scale
    if bias is not None:
        shift = bias if shift is None else bias + shift
    scale, shift = (None if t is None else t.contiguous() for t in (scale, shift))
    # the channels of a filter together, as the products read them; copied where the weight does not lie so
    packed = weight.to(x.dtype).contiguous(memory_format=torch.channels_last).unsqueeze(0)
    axes = forward_axes(weight.shape[2:], stride, padding, dilation)
    size = out_size(x.shape, weight.shape, stride, padding, dilation)
    out = new_map(x, weight.shape[0], size)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    if out.numel():
        start(product_launch, x, packed, out, axes, groups, False, scale, shift, residual, activation, config)
    return out
