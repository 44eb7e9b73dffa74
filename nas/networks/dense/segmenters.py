"""Semantic FPN (https://arxiv.org/abs/1901.02446) and UPerNet (https://arxiv.org/abs/1807.10221).

Both take images [N, C, H, W] and return {"out": logits [N, classes, H, W]}, as torchvision's segmenters do; UPerNet
adds "aux", of the last stage but one, while it trains.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from nas.networks.blocks import slot
from nas.networks.dense.pyramid import Backbone, Pyramid
from nas.space.dense import CONV3, DenseSpec

HEAD_CHANNELS, AUX_CHANNELS = 128, 256
POOLED = (1, 2, 3, 6)
"""Rows and columns of UPerNet's pooled maps."""
DROPOUT = 0.1


class SemanticFPN(nn.Module):
    """The maps of a pyramid, each brought to the finest's size by 3x3 convolutions with up-sampling, and summed."""

    def __init__(self, spec: DenseSpec, num_classes: int, in_channels: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.pyramid = Pyramid(spec, in_channels, drop_path)
        self.branches = nn.ModuleList()
        for steps in range(len(self.pyramid.names)):
            widths = [spec.channels, *[HEAD_CHANNELS] * max(1, steps)]
            self.branches.append(nn.ModuleList(Conv2dNormActivation(a, b, 3) for a, b in pairwise(widths)))
        self.classify = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(HEAD_CHANNELS, num_classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = list(self.pyramid(x).values())
        found = []
        for steps, (branch, y) in enumerate(zip(self.branches, maps, strict=True)):
            for at, layer in enumerate(branch):  # pyright: ignore
                y = layer(y)
                if steps:
                    y = _resized(y, maps[steps - 1 - at].shape[2:])
            found.append(y)
        return {"out": _resized(self.classify(sum(found)), x.shape[2:])}


class UPerNet(nn.Module):
    """A pyramid on top of pooled maps of the last stage, whose maps are joined by one 3x3 convolution."""

    def __init__(self, spec: DenseSpec, num_classes: int, in_channels: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.backbone = Backbone(spec, in_channels, drop_path, num_levels=4)
        *widths, last = self.backbone.widths
        channels = spec.channels
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), Conv2dNormActivation(last, channels, 1)) for side in POOLED
        )
        self.top = Conv2dNormActivation(last + len(POOLED) * channels, channels, 3)
        self.lateral = nn.ModuleList(Conv2dNormActivation(width, channels, 1) for width in widths)
        self.fuse = nn.ModuleList(_fusion(spec, channels) for _ in widths)
        self.join = Conv2dNormActivation((len(widths) + 1) * channels, channels, 3)
        self.classify = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = nn.Sequential(
            Conv2dNormActivation(widths[-1], AUX_CHANNELS, 3),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(AUX_CHANNELS, num_classes, 1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        *maps, last = self.backbone(x)
        pooled = [_resized(pool(last), last.shape[2:]) for pool in self.pooled]
        sums = [self.top(torch.cat([last, *pooled], dim=1))]
        for lateral, y in zip(reversed(list(self.lateral)), reversed(maps), strict=True):
            sums.insert(0, lateral(y) + _resized(sums[0], y.shape[2:]))
        finest = [fuse(y) for fuse, y in zip(self.fuse, sums, strict=False)]
        joined = torch.cat([_resized(y, finest[0].shape[2:]) for y in (*finest, sums[-1])], dim=1)
        found = {"out": _resized(self.classify(self.join(joined)), x.shape[2:])}
        if self.training:
            found["aux"] = _resized(self.auxiliary(maps[-1]), x.shape[2:])
        return found


def _fusion(spec: DenseSpec, channels: int) -> nn.Module:
    """The slot behind a sum, with norm and ReLU."""
    if spec.neck == CONV3:
        return Conv2dNormActivation(channels, channels, 3)
    return nn.Sequential(slot(spec.neck, channels, channels), nn.BatchNorm2d(channels), nn.ReLU())


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False) if x.shape[2:] != size else x
