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
        if spec.neck != CONV3:
            for i in range(num_levels):
                self.fpn.layer_blocks[i] = slot(spec.neck, spec.channels, spec.channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict(zip(self.names, self.backbone(x), strict=True)))


def slots_and_relus(operator: specs.Operator, *widths: int) -> nn.Sequential:
    """The operator from each width to the next, a ReLU behind each."""
    return nn.Sequential(*(nn.Sequential(slot(operator, a, b), nn.ReLU()) for a, b in pairwise(widths)))
