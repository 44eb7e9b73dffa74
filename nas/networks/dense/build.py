"""build_dense: the detector or segmenter of a spec."""

from __future__ import annotations

import inspect
from typing import Any

from timm.utils.model import freeze
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from nas.networks.dense.pyramid import Backbone, Pyramid, slots_and_relus
from nas.networks.dense.segmenters import SemanticFPN, UPerNet
from nas.space.dense import CONV3, DETECTORS, DenseSpec

MASK_WIDTHS = (256,) * 4
TOWER_LAYERS = 4


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
    if spec.kind == "retinanet":
        model = _retinanet(spec, num_classes, in_channels, drop_path, options)
    else:
        backbone = Pyramid(spec, in_channels, drop_path, extra_blocks=LastLevelMaxPool())
        detector = FasterRCNN if spec.kind == "faster_rcnn" else MaskRCNN
        model: Any = detector(backbone, num_classes + 1, **options)
        if spec.head != CONV3:
            model.rpn.head.conv = slots_and_relus(spec.head, spec.channels, spec.channels)
            if spec.kind == "mask_rcnn":
                model.roi_heads.mask_head = slots_and_relus(spec.head, spec.channels, *MASK_WIDTHS)
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
    if spec.head != CONV3:
        for tower in (model.head.classification_head, model.head.regression_head):
            tower.conv = slots_and_relus(spec.head, *[spec.channels] * (TOWER_LAYERS + 1))
    return model


def freeze_stages(model: nn.Module, stages: int = 1) -> None:
    """Keep the stem and so many stages of the backbone of a dense network as they are, with the statistics of their
    norms, as the papers' detectors do; none for 0."""
    backbone = next(part for part in model.modules() if isinstance(part, Backbone))
    names = [name for name, _ in backbone.body.named_children()]
    stages_kept = {f"stages_{i}" for i in range(stages)}
    if stages:
        freeze(backbone.body, [name for name in names if name.startswith("stem") or name in stages_kept])
