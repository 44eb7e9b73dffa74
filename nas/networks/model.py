"""build_model: the network that a genotype stands for, as an ordinary nn.Module with timm's interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nas.base.errors import UserError
from nas.networks.blocks import Head, build_block, build_conv_head, build_stem
from nas.networks.fuse import fuse_for_inference as fuse_for_inference
from nas.operators.common import drawing, kaiming_
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.published import is_published


class Network(nn.Module):
    """Stem, stages, head. [N, in_channels, H, W] -> logits [N, num_classes].

    What timm's models have, it has: `forward_features`, `forward_head`, `forward_intermediates`, `reset_classifier`,
    `feature_info` and so on. A feature is a stage's output; where the stem ends in a max-pool (resnet, deep, rednet),
    the map before it, at half the resolution, is feature 0.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_path: float = 0.0,
        dropout: float | None = None,
        global_pool: str = "avg",
    ):
        super().__init__()
        self.genotype = genotype
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.grad_checkpointing = False
        self.stem = build_stem(genotype.stem, in_channels)
        rates = [drop_path * i / max(len(genotype.blocks) - 1, 1) for i in range(len(genotype.blocks))]
        self.feature_info = []
        if isinstance(self.stem[-1], nn.MaxPool2d):
            last = f"stem.{len(self.stem) - 2}"
            self.feature_info.append({"num_chs": genotype.stem.width, "reduction": 2, "module": last})
        stages, channels, index, reduction = [], genotype.stem.width, 0, specs.STEM_STRIDES[genotype.stem.kind]
        for i, stage in enumerate(genotype.stages):
            blocks = []
            for spec in stage:
                blocks.append(build_block(channels, spec, rates[index]))
                channels, index, reduction = spec.width, index + 1, reduction * spec.stride
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.conv_head = build_conv_head(channels, genotype.head)
        self.num_features = self.head_hidden_size = genotype.head.width or channels
        self.head = Head(self.num_features, genotype.head, num_classes, dropout, global_pool)
        if is_published(genotype):
            for module in reversed(list(self.modules())):  # a block has the last word on its operator
                if type(module) is nn.Conv2d:
                    kaiming_(module)
                elif hasattr(module, "reset_as_published"):
                    module.reset_as_published()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> the map that is pooled, [N, num_features, H', W']."""
        x = self.stem(x)
        for stage in self.stages:
            x = self._run(stage, x)
        return self.conv_head(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of `forward_features` -> logits, or what the classifier would see."""
        return self.head(x, pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The map of `forward_features` and the chosen features (all; the last n; or those of these indices).

        `norm` has no effect: no norm stands between the stages. Raises ValueError for an index or format that is not.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt = {output_fmt!r}: allowed is 'NCHW'")
        wanted = self._indices(indices)
        features: list[Tensor] = []
        for layer in self.stem[:-1]:
            x = layer(x)
        if isinstance(self.stem[-1], nn.MaxPool2d):
            features.append(x)
        x = self.stem[-1](x)
        for stage in self.stages:
            if stop_early and len(features) > max(wanted):
                break
            x = self._run(stage, x)
            features.append(x)
        chosen = [features[i] for i in wanted]
        return chosen if intermediates_only else (self.conv_head(x), chosen)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last of these features, and the head; returns the indices counted from 0."""
        wanted = self._indices(indices)
        self.stages = self.stages[: max(wanted) + 1 - isinstance(self.stem[-1], nn.MaxPool2d)]
        if prune_head:
            self.conv_head = nn.Sequential()
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier, none for 0 classes; `global_pool` is "avg", "max", "avgmax" or "" (none)."""
        self.num_classes = num_classes
        self.head.reset(num_classes, self.head.pool if global_pool is None else global_pool)
        self.head.to(next(self.stem.parameters()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute every block again in the backward pass instead of keeping its insides."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups by depth, for layer-wise learning rates."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^conv_head", (99999,))]}

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond the vectors (norms, biases, layer scale), which timm leaves out by itself."""
        return set()

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return stage(x)
        for block in stage.children():
            x = recomputed(block, x)
        return x

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        """Indices of features counted from 0; a number stands for the last so many, None for all."""
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            indices = range(-(count if indices is None else indices), 0)
        if not indices or not all(-count <= i < count for i in indices):
            raise ValueError(f"indices = {list(indices)}: allowed are {-count} to {count - 1}, at least one")
        return [i % count for i in indices]


def build_model(
    genotype: Genotype,
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path: float = 0.0,
    dropout: float | None = None,
    global_pool: str = "avg",
) -> Network:
    """Build the network of a genotype, freshly initialised.

    A published network starts as its paper says, for which its recipe is made; its operators, and the layers of gated
    blocks, have `reset_as_published` for that. Every other network starts as the `reset_parameters` of its operators
    say: signals keep their size and distribution through every operator, so that none is ahead by its start.

    drop_path: stochastic depth of the last block; the rate grows linearly from 0 at the first.
    dropout: before the classifier, None for the genotype's. num_classes = 0 leaves out the classifier, so that the
    pooled features come out; global_pool: "avg", "max", "avgmax", or "" for none. Raises UserError for a detector or
    segmenter.
    """
    if genotype.dense is not None:
        kind = genotype.dense.kind
        raise UserError(
            f"genotype {genotype.key}: is a {kind}, no classifier; nas.networks.dense.build_dense builds it"
        )
    genotype = genotype.loaded()
    with drawing():
        return Network(genotype, num_classes, in_channels, drop_path, dropout, global_pool)


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), of whose insides only x is kept; batch norms count the batch once."""
    if not torch.is_grad_enabled():
        return block(x)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _still(block)))  # type: ignore


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Batch norms saw the batch already: the second time their running statistics stay."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta, counts = [norm.momentum for norm in norms], [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:  # torch leaves as soon as it has what the backward pass needs, by an exception
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
