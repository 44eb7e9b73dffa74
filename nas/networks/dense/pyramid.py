"""The feature pyramid over a network's last four stages, with any operator behind its sums."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

import nas.networks.timm_models  # noqa: F401  registers `opnas`
from nas.networks.blocks import slot
from nas.space import specs
from nas.space.dense import CONV3, DenseSpec

LEVELS = ("0", "1", "2", "3")
GROUP = 8
"""Channels that GroupNorm takes together, where they divide the whole: 32 groups of 256."""


class Backbone(nn.Module):
    """The last stages of a network, `body` of timm's features_only interface: images [N, C, H, W] to their maps."""

    def __init__(self, spec: DenseSpec, in_channels: int, drop_path: float, num_levels: int):
        super().__init__()
        last = tuple(range(-num_levels, 0))
        options = {"in_chans": in_channels, "drop_path_rate": drop_path, "features_only": True, "out_indices": last}
        self.body: Any = timm.create_model("opnas", genotype=spec.backbone, **options)
        self.widths: list[int] = self.body.feature_info.channels()

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.body(x)


class Pyramid(nn.Module):
    """Images to an ordered dict of maps [N, channels, H / stride, W / stride], the finest first, as torchvision's
    detectors take them."""

    def __init__(
        self,
        spec: DenseSpec,
        in_channels: int = 3,
        drop_path: float = 0.0,
        num_levels: int = len(LEVELS),
        extra_blocks: ExtraFPNBlock | None = None,
    ):
        super().__init__()
        self.backbone = Backbone(spec, in_channels, drop_path, num_levels)
        self.fpn = FeaturePyramidNetwork(self.backbone.widths, spec.channels, extra_blocks)
        self.out_channels = spec.channels
        self.names = LEVELS[-num_levels:]
        if is_ours(spec, spec.neck):
            for i in range(num_levels):
                layers = _slot(spec, spec.neck, spec.channels, spec.channels)
                self.fpn.layer_blocks[i] = layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict(zip(self.names, self.backbone(x), strict=True)))


def is_ours(spec: DenseSpec, operator: specs.Operator) -> bool:
    """Whether slots of the operator are not as torchvision makes them."""
    return operator != CONV3 or spec.norm != "none"


def slots_and_relus(spec: DenseSpec, *widths: int) -> nn.Sequential:
    """The operator of the head from each width to the next, a norm, if there is one, and a ReLU behind each."""
    layers = (nn.Sequential(*_slot(spec, spec.head, a, b), nn.ReLU()) for a, b in pairwise(widths))
    return nn.Sequential(*layers)


def _slot(spec: DenseSpec, operator: specs.Operator, in_channels: int, out_channels: int) -> list[nn.Module]:
    layer = slot(operator, in_channels, out_channels)
    groups = out_channels // GROUP if out_channels % GROUP == 0 else 1
    return [layer] if spec.norm == "none" else [layer, nn.GroupNorm(groups, out_channels)]
