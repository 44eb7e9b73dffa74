"""build_dense: the detector or segmenter of a spec."""

from __future__ import annotations

import inspect
from typing import Any

from timm.utils.model import freeze
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nas.networks.dense.pyramid import Backbone, Pyramid, is_ours, slots_and_relus
from nas.networks.dense.segmenters import SemanticFPN, UPerNet
from nas.space.dense import DETECTORS, DenseSpec

MASK_WIDTHS = (256,) * 4
TOWER_LAYERS = 4
ROI_SIDE, HIDDEN_PER_CHANNEL = 7, 4
"""Rows and columns of a proposal, and hidden channels of the box head: 1024 with the published 256 of the pyramid."""
ASPECTS = (0.5, 1.0, 2.0)
"""Heights of anchors as multiples of their widths."""


def build_dense(
    spec: DenseSpec, num_classes: int, in_channels: int = 3, drop_path: float = 0.0, **options: Any
) -> nn.Module:
    """A detector of torchvision, with its interface and `options`, or a segmenter (see `segmenters`), whose weights are
    drawn.

    `num_classes` are those of objects, without a background, or those of pixels. Raises ValueError for an option that
    the detector does not have.
    """
    for name in options:
        if name not in (allowed := _options(spec.kind)):
            raise ValueError(f"{name}: {spec.kind} has no such option; allowed are {', '.join(allowed) or 'none'}")
    if spec.kind not in DETECTORS:
        segmenter = SemanticFPN if spec.kind == "semantic_fpn" else UPerNet
        return segmenter(spec, num_classes, in_channels, drop_path)
    if in_channels != 3:  # torchvision's transform normalises by three means
        channels = {"image_mean": [0.0] * in_channels, "image_std": [1.0] * in_channels}
        options = channels | options
    if spec.anchors is not None:
        name = "anchor_generator" if spec.kind == "retinanet" else "rpn_anchor_generator"
        sides = tuple((side,) for side in spec.anchors)
        options = {name: AnchorGenerator(sides, (ASPECTS,) * len(sides))} | options
    if spec.kind == "retinanet":
        model = _retinanet(spec, num_classes, in_channels, drop_path, options)
    else:
        backbone = Pyramid(spec, in_channels, drop_path, extra_blocks=LastLevelMaxPool())
        detector = FasterRCNN if spec.kind == "faster_rcnn" else MaskRCNN
        model: Any = detector(backbone, num_classes + 1, **options)
        hidden = HIDDEN_PER_CHANNEL * spec.channels
        if hidden != model.roi_heads.box_head.fc7.out_features:
            model.roi_heads.box_head = TwoMLPHead(spec.channels * ROI_SIDE**2, hidden)
            model.roi_heads.box_predictor = FastRCNNPredictor(hidden, num_classes + 1)
        if is_ours(spec, spec.head):
            model.rpn.head.conv = slots_and_relus(spec, spec.channels, spec.channels)
            if spec.kind == "mask_rcnn":
                model.roi_heads.mask_head = slots_and_relus(spec, spec.channels, *MASK_WIDTHS)
    return model


def _options(kind: str) -> list[str]:
    """What torchvision's detector of that kind can be told; it takes any other without a word."""
    detector = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "retinanet": RetinaNet}.get(kind)
    names = inspect.signature(detector).parameters if detector else ()
    return [name for name in names if name not in ("backbone", "num_classes", "kwargs")]


def _retinanet(spec: DenseSpec, num_classes: int, in_channels: int, drop_path: float, options: dict[str, Any]):
    """On the last three stages, with two more levels by strided convolutions of the last one."""
    backbone = Pyramid(spec, in_channels, drop_path, num_levels=3)
    backbone.fpn.extra_blocks = LastLevelP6P7(backbone.backbone.widths[-1], spec.channels)
    model = RetinaNet(backbone, num_classes, **options)
    if is_ours(spec, spec.head):
        for tower in (model.head.classification_head, model.head.regression_head):
            tower.conv = slots_and_relus(spec, *[spec.channels] * (TOWER_LAYERS + 1))
    return model


def freeze_stages(model: nn.Module, stages: int = 1) -> None:
    """Keep the stem and so many stages of the backbone of a dense network as they are, with the statistics of their
    norms, as the papers' detectors do; none for 0."""
    backbone = next(part for part in model.modules() if isinstance(part, Backbone))
    names = [name for name, _ in backbone.body.named_children()]
    stages_kept = {f"stages_{i}" for i in range(stages)}
    if stages:
        freeze(backbone.body, [name for name in names if name.startswith("stem") or name in stages_kept])
