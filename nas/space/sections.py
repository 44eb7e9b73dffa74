"""The `space:` section of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator

from nas.base.section import OwnName, Positive, Section, named
from nas.space import specs

ShippedBlock = Literal["basic", "bottleneck", "inverted_residual", "gated"]
BlockKind = Annotated[ShippedBlock | OwnName, named("nas.blocks")]


StemKind = Literal["resnet", "deep", "rednet", "patchify", "mobilenet", "small"]


STEM_WIDTHS = {"resnet": 64, "deep": 64, "rednet": 64, "patchify": 64, "mobilenet": 32, "small": 32}


LABEL = r"^[A-Za-z][A-Za-z0-9_]{0,31}$"


Label = Annotated[str, StringConstraints(pattern=LABEL)]


def _shape(value: Any) -> str:
    return "<one>" if isinstance(value, str | int | float) else "<many>"


T = TypeVar("T")


S = TypeVar("S")


# told apart by their shape, so that a mistake is reported once and not for both
Either = Annotated[Annotated[T, Tag("<one>")] | Annotated[S, Tag("<many>")], Discriminator(_shape)]


OneOrMore = Either[T, list[T]]


def distinct_entries(value: Any) -> Any:
    """A value, or a list of choices as it is. Raises ValueError for a list that is empty or names an entry twice."""
    if isinstance(value, list):
        if not value:
            raise ValueError("an empty list offers no choice; write at least one entry")
        if len(set(value)) != len(value):
            raise ValueError("the list names an entry twice")
    return value


class StageConfig(Section):
    """The choices of one stage; a list offers each of its entries, a single value fixes it."""

    block: OneOrMore[BlockKind]
    """Block kind, or the kinds to choose from; MODULE:CLASS is one of your own."""
    depth: OneOrMore[Positive]
    """Number of blocks, or the numbers to choose from."""
    width: OneOrMore[Positive]
    """Output channels of every block of the stage, or the numbers to choose from."""
    operator: OneOrMore[Label] | None = None
    """Labels of the operators that may fill the block's slots; absent: all that fit the block."""
    pointwise: OneOrMore[Label] | None = None
    """Labels of the operators for the 1x1 slots of a bottleneck or inverted residual; absent: plain convolution."""
    stride: Literal[1, 2] | None = None
    """Stride of the stage's first block; absent: 1 in the first stage, 2 in the others."""
    expansion: Positive | None = None
    """Channels inside the block: width / expansion in a bottleneck, input x expansion in an inverted residual, the MLP
    of a gated block; absent: 4, 6 and 4."""

    @field_validator("block", "depth", "width", "operator", "pointwise")
    @classmethod
    def _choices(cls, value):
        return distinct_entries(value)


class DenseConfig(Section):
    """What makes the networks of the space detectors: a feature pyramid over the last stages (neck), and heads on it.

    A list offers each of its entries, a single value fixes it.
    """

    kind: Literal["retinanet", "faster_rcnn"] = "retinanet"
    """torchvision's detector; its pyramid stands on the last three stages (retinanet) or four (faster_rcnn)."""
    neck: OneOrMore[Label]
    """Labels of the operators that may stand behind the sums of the pyramid, where a detector has a 3x3 convolution."""
    head: OneOrMore[Label]
    """Labels of the operators that may fill the slots of the heads: both branches of retinanet, four each; the region
    proposals of faster_rcnn."""
    fpn_channels: OneOrMore[Positive] = 256
    """Channels of the pyramid and of retinanet's branches, or the numbers to choose from."""
    anchors: list[Positive] | None = Field(default=None, min_length=5, max_length=5)
    """Side of the square anchors in pixels, for each of the five levels, the finest first; each is also tried half and
    twice as high as wide. Absent: torchvision's, of 32 to 512 pixels."""

    norm: Literal["group", "none"] = "group"
    """What stands behind each slot of neck and head: GroupNorm over 8 channels, or nothing, as in the papers, where
    involution is quadratic in what comes in and a training from nothing begins badly."""

    @field_validator("neck", "head", "fpn_channels")
    @classmethod
    def _choices(cls, value):
        return distinct_entries(value)


class SpaceConfig(Section):
    """The search space: stem, operators under labels, stages, head."""

    stem: Either[StemKind, specs.Stem] = "resnet"
    """A stem by name with its usual width, or an object {kind, width, kernel_size}."""
    operators: dict[Label, specs.Operator] = Field(min_length=1)
    """Label -> operator and its options; the labels are what plots show. `op: MODULE:CLASS` is one of your own."""
    mix: Literal["per_stage", "per_block"] = "per_stage"
    """Whether the operator is chosen once per stage or for every block."""
    stages: list[StageConfig] = Field(min_length=1)
    """The stages from input to output."""
    head: Either[Literal["linear", "norm", "mobilenet"], specs.Head] | None = None
    """Absent: norm after a gated block, else linear. Of classifiers only."""
    dense: DenseConfig | None = None
    """With it the networks are detectors, for `proxy.task: detection`; absent: classifiers."""
    zero_init: bool = False
    """Whether the last norm of every residual block starts at zero, as in RedNet."""
    layer_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Start value of the layer scale of gated blocks; 0 means none. The published 1e-6 is for 300 epochs."""
