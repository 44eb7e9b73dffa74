"""build_model: the network that a genotype stands for, as an ordinary nn.Module."""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks import BLOCKS, Head, build_stem
from nas.genotype import Genotype


class Network(nn.Module):
    """Stem, stages, head. [N, in_channels, H, W] -> logits [N, num_classes]."""

    def __init__(self, genotype: Genotype, num_classes: int = 1000, in_channels: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.genotype = genotype
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.stem = build_stem(genotype.stem, in_channels)
        rates = [drop_path * i / max(len(genotype.blocks) - 1, 1) for i in range(len(genotype.blocks))]
        stages, channels, index = [], genotype.stem.width, 0
        for stage in genotype.stages:
            blocks = []
            for spec in stage:
                blocks.append(BLOCKS[spec.kind](channels, spec, rates[index]))
                channels, index = spec.width, index + 1
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = Head(channels, genotype.head, num_classes)
        self.num_features = self.head.num_features

    def forward_features(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> the last stage's map [N, C, H', W']."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def build_model(genotype: Genotype, num_classes: int = 1000, in_channels: int = 3, drop_path: float = 0.0) -> Network:
    """Build the network of a genotype, freshly initialised as its papers say.

    drop_path: stochastic depth of the last block; the rate grows linearly from 0 at the first.
    num_classes = 0 leaves out the classifier, so that the pooled features come out.
    """
    return Network(genotype, num_classes, in_channels, drop_path)
