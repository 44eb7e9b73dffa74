"""Networks for dense prediction: a genotype as backbone, and the operators of neck and head. Knows no torch."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from typing import Any

from pydantic.dataclasses import dataclass

from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED
from nas.space.pyramid import CONV3, DETECTORS, Dense, Kind

__all__ = ["CONV3", "DETECTORS", "PUBLISHED_DENSE", "DenseSpec", "Kind", "dense_spec"]


@dataclass(frozen=True, kw_only=True, config=specs.STRICT)
class DenseSpec(Dense):
    """A detector or segmenter with a feature pyramid over the last stages of its backbone."""

    backbone: Genotype
    """Its last stages are used (four, of RetinaNet three), and its head is not."""


def dense_spec(genotype: Genotype) -> DenseSpec:
    """The detector or segmenter that a genotype with a `dense` part stands for. Raises ValueError for a classifier."""
    if genotype.dense is None:
        raise ValueError(f"genotype {genotype.key}: is a classifier, it has no part `dense`")
    options = {field.name: getattr(genotype.dense, field.name) for field in fields(genotype.dense)}
    return DenseSpec(backbone=replace(genotype, dense=None), **options)


def _published() -> dict[str, DenseSpec]:
    involution = specs.Involution()
    variants = {"": {}, "_inv_neck": {"neck": involution}, "_inv_neck_head": {"neck": involution, "head": involution}}
    kinds = {"faster_rcnn": 3, "mask_rcnn": 3, "retinanet": 2, "semantic_fpn": 2, "upernet": 1}
    found = {}
    for kind, count in kinds.items():
        for name, options in list(variants.items())[:count]:
            found[f"{kind}_rednet50{name}"] = _spec(kind, PUBLISHED["rednet50_stem7"], **options)
    others = ("resnet50", "resnet101", "mobilenetv2_100", "od_resnet50_4x", "od_mobilenetv2_100_4x")
    for backbone in (*others, "scnet50", "scnet50_v1d", "scnet101"):
        for kind in ("faster_rcnn", "mask_rcnn"):
            found[f"{kind}_{backbone}"] = _spec(kind, PUBLISHED[backbone])
    for size, filter in product(("tiny", "small", "base", "large"), ("7x7", "gf")):
        name = f"hornet_{size}_{filter}"
        hor = specs.GnConv(order=2, scale=1.0, **({"filter": "global", "grid": (32, 17)} if filter == "gf" else {}))
        for kind, (suffix, neck) in product(("mask_rcnn", "upernet"), {"": CONV3, "_horfpn": hor}.items()):
            found[f"{kind}_{name}{suffix}"] = _spec(kind, PUBLISHED[name], neck=neck)
    return found


def _spec(kind: Any, backbone: Genotype, **options: Any) -> DenseSpec:
    return DenseSpec(kind=kind, backbone=backbone, channels=512 if kind == "upernet" else 256, **options)


PUBLISHED_DENSE: dict[str, DenseSpec] = _published()
"""Name -> detector or segmenter of a paper: involution's, ODConv's, SCNet's and HorNet's; HorNet's detectors have one
box head here and three in cascade in the paper, and `..._horfpn` is with its own pyramid."""
