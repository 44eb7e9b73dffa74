"""Dynamic convolution with a kernel mixed for each sample: a [N,n,C',C/g,Kh,Kw] product, then one group per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def odconv2d(x, weight, channel, filter, spatial, kernel, stride, padding, dilation, groups) -> torch.Tensor:
    """Factors shaped [N,C,1,1], [N,C',1,1], [N,1,1,1,Kh,Kw], [N,n,1,1,1,1] or None -> [N,C',H',W']."""
    n = x.shape[0]
    x = x if channel is None else x * channel
    mixed = weight.unsqueeze(0).expand(n, *weight.shape)
    mixed = mixed if spatial is None else mixed * spatial
    mixed = (mixed if kernel is None else mixed * kernel).sum(1)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), mixed.flatten(0, 1), None, stride, padding, dilation, groups * n)
    y = y.view(n, -1, *y.shape[2:])
    return y if filter is None else y * filter
