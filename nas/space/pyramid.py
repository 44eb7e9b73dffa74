"""What makes a classifier a detector or segmenter: kind, and the operators of neck and head. Knows no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from nas.space import specs

Kind = Literal["faster_rcnn", "mask_rcnn", "retinanet", "semantic_fpn", "upernet"]
DETECTORS = ("faster_rcnn", "mask_rcnn", "retinanet")
CONV3 = specs.Conv(bias=True)
"""The 3x3 convolution of a neck or head as it is published."""
LEVELS_USED = {"retinanet": 3}
"""Stages that the pyramid stands on; four where none is named."""
NUM_ANCHOR_LEVELS = 5
"""Maps that a detector looks for objects in, those of its pyramid and one or two coarser ones."""


@dataclass(frozen=True, kw_only=True, config=specs.STRICT)
class Dense:
    """A feature pyramid over the last stages of a network, and the heads of a detector or segmenter.

    `neck` fills the 3x3 slots behind the sums of the pyramid (in UPerNet norm and ReLU behind them stay), `head` those
    of the region proposals and of the mask branch, or of RetinaNet's four-layer branches.
    """

    kind: Kind
    """Detector or segmenter."""
    neck: specs.Operator = CONV3
    """Operator behind the sums of the pyramid."""
    head: specs.Operator = CONV3
    """Operator of the heads; of detectors only."""
    channels: Annotated[int, Field(ge=1)] = 256
    """Channels of the pyramid; UPerNet is published with 512."""
    anchors: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)] | None = None
    """Of a detector: side of the square anchors of each level in pixels, the finest first, which are also tried half
    and twice as high as wide; absent: torchvision's, of 32 to 512 pixels, three sizes in each level of RetinaNet."""

    norm: Literal["none", "group"] = "none"
    """Of a detector: what stands behind each of its slots; none as in the papers, group: GroupNorm over 8 channels."""

    def __post_init__(self):
        if self.kind not in DETECTORS and self.head != CONV3:
            raise ValueError(f"head: {self.kind} has no 3x3 slots in its head; leave it out")
        for option, usual in (("anchors", None), ("norm", "none")):
            if self.kind not in DETECTORS and getattr(self, option) != usual:
                raise ValueError(f"{option}: {self.kind} has none; leave it out")
        if self.anchors is not None and len(self.anchors) != NUM_ANCHOR_LEVELS:
            raise ValueError(f"anchors = {list(self.anchors)}: allowed are {NUM_ANCHOR_LEVELS} numbers, one per level")

    @property
    def num_levels(self) -> int:
        """Stages that the pyramid stands on."""
        return LEVELS_USED.get(self.kind, 4)
