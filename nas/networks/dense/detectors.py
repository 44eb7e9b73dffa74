"""Detector: the detector of a genotype, for square pictures of one size, as a search trains and measures it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.networks.dense.build import build_dense
from nas.networks.dense.pyramid import Backbone
from nas.operators.common import drawing
from nas.space.dense import dense_spec
from nas.space.genotype import Genotype

Target = dict[str, Tensor]
"""Of a picture with K objects: boxes float32 [K, 4] (left, top, right, bottom in pixels), labels int64 [K] from 1."""


PROPOSALS = 128
"""Of a picture, that train Faster R-CNN's box head; in photographs of 800 pixels it is 512."""
TWO_STAGE_HEADS = ("roi_heads.box_head", "roi_heads.box_predictor")


class Detector(nn.Module):
    """Pictures [N, C, S, S], normalised, to one dict per picture: boxes, labels (from 1), scores, the best first.

    With the targets of the pictures it returns the sum of its losses.
    """

    def __init__(self, genotype: Genotype, num_classes: int, in_channels: int, side: int, drop_path: float = 0.0):
        super().__init__()
        self.genotype, self.num_classes, self.in_channels = genotype, num_classes, in_channels
        spec, two_stages = dense_spec(genotype), genotype.dense is not None and genotype.dense.kind != "retinanet"
        options: dict[str, Any] = {"min_size": side, "max_size": side}
        options |= {"image_mean": [0.0] * in_channels, "image_std": [1.0] * in_channels}
        if two_stages:
            options["box_batch_size_per_image"] = PROPOSALS
        classes = num_classes if two_stages else num_classes + 1  # torchvision's RetinaNet counts labels from 0
        with drawing():
            self.model: Any = build_dense(spec, classes, in_channels, drop_path, **options)
        for head in self._heads():  # whose sums and exponentials 16 bits are too few for
            head.register_forward_hook(_in_float32)

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Any:
        if targets is None:
            return self.model(images)
        losses = self.model(list(images), [dict(target) for target in targets])
        return torch.stack(list(losses.values())).sum()

    def _heads(self) -> list[nn.Module]:
        model = self.model
        return [model.head] if hasattr(model, "head") else [model.rpn.head, model.roi_heads.box_predictor]


class Maps(nn.Module):
    """A detector up to what its heads say everywhere: what is measured and counted of it.

    Choosing boxes from that hangs on the picture, is nearly the same whatever the operators, and takes long before a
    training. Of Faster R-CNN the box head is in it, with as many proposals as there may be at inference.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector, self.genotype = detector, detector.genotype

    def forward(self, images: Tensor) -> Any:
        model = self.detector.model
        maps = list(model.backbone(images).values())
        if hasattr(model, "head"):
            return model.head(maps)
        rows, columns = model.roi_heads.box_roi_pool.output_size
        proposals = images.new_zeros(model.rpn.post_nms_top_n(), model.backbone.out_channels, rows, columns)
        return model.rpn.head(maps), model.roi_heads.box_predictor(model.roi_heads.box_head(proposals))

    def parts(self) -> dict[str, list[str]]:
        """Stem, every block, neck and head by the names that a classifier's have -> names of submodules."""
        (body,) = (name for name, part in self.named_modules() if isinstance(part, Backbone))
        children = [name for name, _ in self.get_submodule(f"{body}.body").named_children()]
        stages = enumerate(self.genotype.stages)
        blocks = {f"stages.{i}.{j}": [f"{body}.body.stages_{i}.{j}"] for i, stage in stages for j in range(len(stage))}
        stem = [f"{body}.body.{name}" for name in children if name.startswith("stem")]
        heads = ["head"] if hasattr(self.detector.model, "head") else ["rpn.head", *TWO_STAGE_HEADS]
        heads = [f"detector.model.{name}" for name in heads]
        return {"stem": stem, **blocks, "neck": ["detector.model.backbone.fpn"], "head": heads}


def _in_float32(module: nn.Module, given: Any, found: Any) -> Any:
    if isinstance(found, dict):
        return {name: value.float() for name, value in found.items()}
    return tuple(value.float() if isinstance(value, Tensor) else [part.float() for part in value] for value in found)
