"""The options of operators, blocks, stems and heads: frozen dataclasses with defaults and checks. Knows no torch.

These classes are the vocabulary of a `Genotype` and, at the same time, what a YAML file may say: the configuration is
validated against them, so an option exists in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict, ValidationError
from pydantic.dataclasses import dataclass

from nas.space.registry import BLOCKS, OPERATORS, STRICT, Registered

# the ranges are checked below, in words that name the option; the JSON Schema is told them here
Count = Annotated[int, Field(json_schema_extra={"minimum": 1})]
Odd = Annotated[int, Field(json_schema_extra={"minimum": 1, "not": {"multipleOf": 2}})]
Groups = Count | Literal["depthwise"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Conv:
    """Convolution: dense, grouped, or depthwise."""

    op: Literal["conv"] = "conv"
    """Plain convolution."""
    kernel_size: Odd = 3
    """Rows and columns of the window, in pixels."""
    dilation: Count = 1
    """Distance between neighbouring taps of the window, in pixels; 1 where the window is 1x1."""
    groups: Groups = 1
    """Groups of channels convolved apart: 1 is dense, a number is lowered to the largest divisor of both widths."""
    bias: bool = False
    """Whether the convolution adds a bias."""

    def __post_init__(self):
        _odd("kernel_size", self.kernel_size)
        _at_least("dilation", self.dilation, 1)
        _groups(self.groups)
        if self.kernel_size == 1:
            object.__setattr__(self, "dilation", 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Involution:
    """Involution (CVPR 2021): one generated kernel per position, shared by the channels of a group."""

    op: Literal["involution"] = "involution"
    """Involution."""
    kernel_size: Odd = 7
    """Rows and columns of the window, in pixels."""
    group_channels: Count = 16
    """Channels that share one generated kernel: the largest divisor of the channels not above it."""
    reduction: Count = 4
    """The generator of the kernels has channels / reduction hidden channels, one at least."""
    dilation: Count = 1
    """Distance between neighbouring taps of the window, in pixels; 1 where the window is 1x1."""

    def __post_init__(self):
        _odd("kernel_size", self.kernel_size)
        _at_least("group_channels", self.group_channels, 1)
        _at_least("reduction", self.reduction, 1)
        _at_least("dilation", self.dilation, 1)
        if self.kernel_size == 1:
            object.__setattr__(self, "dilation", 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ODConv:
    """Omni-dimensional dynamic convolution (ICLR 2022): kernels mixed per sample by four attentions."""

    op: Literal["odconv"] = "odconv"
    """Omni-dimensional dynamic convolution."""
    kernel_size: Odd = 3
    """Rows and columns of the window, in pixels."""
    num_kernels: Count = 4
    """Kernels that are mixed for each image."""
    reduction: Annotated[float, Field(json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})] = 0.0625
    """Hidden channels of the attention as a share of the input's channels."""
    min_attention_channels: Count = 16
    """Least number of hidden channels of the attention."""
    dilation: Count = 1
    """Distance between neighbouring taps of the window, in pixels; 1 where the window is 1x1."""
    groups: Groups = 1
    """Groups of channels convolved apart: 1 is dense, a number is lowered to the largest divisor of both widths."""

    def __post_init__(self):
        _odd("kernel_size", self.kernel_size)
        _at_least("num_kernels", self.num_kernels, 1)
        if not 0 < self.reduction <= 1:
            raise ValueError(f"reduction = {self.reduction!r}: allowed is a number above 0 and at most 1")
        _at_least("min_attention_channels", self.min_attention_channels, 1)
        _at_least("dilation", self.dilation, 1)
        _groups(self.groups)
        if self.kernel_size == 1:
            object.__setattr__(self, "dilation", 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SCConv:
    """Self-calibrated convolution (SCNet, CVPR 2020): a plain and a calibrated half, both with BatchNorm inside."""

    op: Literal["scconv"] = "scconv"
    """Self-calibrated convolution."""
    pooling: Count = 4
    """Window and stride of the average pool before the calibrating convolution, in pixels; cut to the map."""
    dilation: Count = 1
    """Distance between neighbouring taps of the 3x3 windows, in pixels."""

    def __post_init__(self):
        _at_least("pooling", self.pooling, 1)
        _at_least("dilation", self.dilation, 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GnConv:
    """Recursive gated convolution (HorNet, NeurIPS 2022) of order 2 to 5.

    `grid` is the shape (rows, columns) of the learnt half spectrum of the global filter, (14, 8) for a 14x14 map; it is
    resized when the map differs.
    """

    op: Literal["gnconv"] = "gnconv"
    """Recursive gated convolution."""
    order: Annotated[int, Field(json_schema_extra={"minimum": 2, "maximum": 5})] = 3
    """Number of gating steps."""
    scale: float = 1 / 3
    """Factor of the filter's output."""
    filter: Literal["depthwise7", "global"] = "depthwise7"
    """The spatial filter: 7x7 depthwise, or half of the channels 3x3 depthwise and half by a global filter."""
    grid: Annotated[tuple[int, int], Strict(False)] | None = None
    """Needed by `filter: global`: rows and columns of the learnt half spectrum, such as [14, 8] for a 14x14 map."""

    def __post_init__(self):
        if not 2 <= self.order <= 5:
            raise ValueError(f"order = {self.order!r}: allowed is 2, 3, 4 or 5")
        if self.filter == "depthwise7":
            object.__setattr__(self, "grid", None)
        elif self.grid is None or min(self.grid) < 1:
            raise ValueError(f"grid = {self.grid!r}: the global filter needs two positive numbers, such as [14, 8]")


Operator = Annotated[Conv | Involution | ODConv | SCConv | GnConv, Registered(OPERATORS)]
"""Any operator that is registered: one of these, or one of others with the same ways."""
OPERATORS.register("conv", Conv, "nas.operators.conv:Conv")
OPERATORS.register("involution", Involution, "nas.operators.involution:Involution")
OPERATORS.register("odconv", ODConv, "nas.operators.odconv:ODConv")
OPERATORS.register("scconv", SCConv, "nas.operators.scconv:SCConv")
OPERATORS.register("gnconv", GnConv, "nas.operators.gnconv:GnConv")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Basic:
    """Residual block of two 3x3 slots (ResNet-18/34): slot, norm, ReLU, slot, norm, add, ReLU.

    `shortcut: avgpool` averages before the 1x1 convolution beside the block instead of striding it.
    """

    kind: Literal["basic"] = "basic"
    width: int
    operator: Operator
    stride: Literal[1, 2] = 1
    shortcut: Literal["conv", "avgpool"] = "conv"
    zero_init: bool = False
    has_pointwise: ClassVar[bool] = False

    def __post_init__(self):
        _block(self)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bottleneck:
    """Residual block of 1x1, slot, 1x1 (ResNet-50, RedNet, SCNet, OD-ResNet) with width / expansion channels inside.

    `downsample: avgpool` moves the stride from the slot to a 3x3 average pool behind its ReLU (the v1d form).
    `pointwise` is the operator of both 1x1 slots, a plain convolution where absent.
    """

    kind: Literal["bottleneck"] = "bottleneck"
    width: int
    operator: Operator
    stride: Literal[1, 2] = 1
    expansion: int = 4
    pointwise: Operator | None = None
    shortcut: Literal["conv", "avgpool"] = "conv"
    downsample: Literal["operator", "avgpool"] = "operator"
    zero_init: bool = False
    has_pointwise: ClassVar[bool] = True

    def __post_init__(self):
        _block(self)
        if self.width % self.expansion:
            raise ValueError(f"width = {self.width!r}: allowed is a multiple of the expansion {self.expansion}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InvertedResidual:
    """MobileNetV2's block: 1x1 to `expansion` times the input, depthwise-like slot, linear 1x1; ReLU6."""

    kind: Literal["inverted_residual"] = "inverted_residual"
    width: int
    operator: Operator
    stride: Literal[1, 2] = 1
    expansion: int = 6
    pointwise: Operator | None = None
    has_pointwise: ClassVar[bool] = True

    def __post_init__(self):
        _block(self)
        if not fits("inverted_residual", self.operator):
            raise ValueError(f"operator = {self.operator!r}: {WHAT_FITS['inverted_residual']}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gated:
    """HorNet's block: x + scale . slot(LN(x)), then x + scale . MLP(LN(x)); strided, LN and a 2x2 convolution before.

    `residuals: 1` is ConvNeXt's form with a single sum: x + scale . MLP(LN(slot(x))).
    """

    kind: Literal["gated"] = "gated"
    width: int
    operator: Operator
    stride: Literal[1, 2] = 1
    expansion: int = 4
    layer_scale: float = 1e-6
    residuals: Literal[1, 2] = 2
    has_pointwise: ClassVar[bool] = False

    def __post_init__(self):
        _block(self)
        if not 0 <= self.layer_scale <= 1:
            raise ValueError(f"layer_scale = {self.layer_scale!r}: allowed is 0 (none) to 1")


Block = Annotated[Basic | Bottleneck | InvertedResidual | Gated, Registered(BLOCKS)]
"""Any block that is registered: one of these, or one of others with the same ways."""
BLOCKS.register("basic", Basic, "nas.networks.blocks:BasicBlock")
BLOCKS.register("bottleneck", Bottleneck, "nas.networks.blocks:BottleneckBlock")
BLOCKS.register("inverted_residual", InvertedResidual, "nas.networks.blocks:InvertedResidualBlock")
BLOCKS.register("gated", Gated, "nas.networks.blocks:GatedBlock")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Stem:
    """The layers before the first stage.

    resnet: 7x7 stride 2, max-pool. deep: 3x3 stride 2, two more 3x3, max-pool. rednet: 3x3 stride 2, involution of
    `kernel_size`, 3x3, max-pool. patchify: 4x4 stride 4 and LayerNorm. mobilenet: 3x3 stride 2, ReLU6.
    small: 3x3 stride 1, for maps of 8 to 32 pixels.
    """

    kind: Literal["resnet", "deep", "rednet", "patchify", "mobilenet", "small"] = "resnet"
    """The layers, see above."""
    width: Annotated[int, Field(json_schema_extra={"minimum": 2})] = 64
    """Output channels."""
    kernel_size: Literal[3, 7] = 3
    """Window of the involution in the rednet stem, in pixels."""

    def __post_init__(self):
        _at_least("width", self.width, 2)
        if self.kind != "rednet":
            object.__setattr__(self, "kernel_size", 3)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Head:
    """The layers after the last stage.

    linear: pool, linear. norm: pool, LayerNorm, linear. mobilenet: 1x1 slot to `width`, norm, ReLU6, pool, linear.
    The classifier starts at N(0, 0.01), of `norm` at N(0, 0.02), with `uniform_init` as nn.Linear does.
    """

    kind: Literal["linear", "norm", "mobilenet"] = "linear"
    """The layers, see above."""
    width: Count | None = None
    """Output channels of the 1x1 convolution; the mobilenet head needs it, the others have none."""
    operator: Operator | None = None
    """The 1x1 slot of the mobilenet head; absent: plain convolution."""
    dropout: Annotated[float, Field(json_schema_extra={"minimum": 0, "exclusiveMaximum": 1})] = 0.0
    """Probability with which a feature before the classifier is dropped in training."""
    uniform_init: bool = False
    """Whether the classifier starts as nn.Linear does."""

    def __post_init__(self):
        if self.kind != "mobilenet":
            object.__setattr__(self, "width", None)
            object.__setattr__(self, "operator", None)
        elif self.width is None or self.width < 1:
            raise ValueError(f"width = {self.width!r}: the mobilenet head needs its number of channels, such as 1280")
        elif self.operator == Conv(kernel_size=1):
            object.__setattr__(self, "operator", None)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout!r}: allowed is 0 to below 1")


POOLED_STEMS = ("resnet", "deep", "rednet")
"""Those that end in a max-pool."""
STEM_STRIDES = {"resnet": 4, "deep": 4, "rednet": 4, "patchify": 4, "mobilenet": 2, "small": 1}

WHAT_FITS = {
    "inverted_residual": "an inverted residual takes conv or odconv with `groups: depthwise`, and involution",
    "basic": "a basic block takes every operator",
    "bottleneck": "a bottleneck takes every operator",
    "gated": "a gated block takes every operator",
}


def fits(block_kind: str, operator: Operator) -> bool:
    """Whether an operator can fill the slot of a block kind.

    The slot of an inverted residual is several times wider than the block, which only operators that are linear in
    their channels are made for. A block of others says by `fits` of its options; one that is not loaded takes all.
    """
    if block_kind == "inverted_residual":
        return getattr(operator, "groups", None) == "depthwise" or operator.op == "involution"
    own = getattr(BLOCKS.get(block_kind), "fits", None)
    return own is None or own(operator)


def has_pointwise(block_kind: str) -> bool:
    """Whether a block kind has 1x1 slots that an operator can be chosen for."""
    return getattr(BLOCKS.get(block_kind), "has_pointwise", False)


def what_fits(block_kind: str) -> str:
    """In words, the operators that a block kind takes."""
    return WHAT_FITS.get(block_kind, f"the options of {block_kind} say by `fits` which operators it takes")


def make(name: str, kind: type, options: dict):
    """Build a spec from plain options; a wrong one is a ValueError that names it, its value and what is allowed."""
    try:
        return kind(**options)
    except ValidationError as error:
        raise ValueError("; ".join(f"{name}: {line}" for line in explain(error, kind))) from None


def explain(error: ValidationError, kind: type, parts: Mapping[str, type] = MappingProxyType({})) -> list[str]:
    """One line per mistake: path, value, what is allowed; `parts` are those of `kind` that are named elsewhere."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(map(str, item["loc"]))
        cause = item.get("ctx", {}).get("error")
        if item["type"] == "unexpected_keyword_argument":
            lines.append(f"{path}: unknown option; allowed are {_options_at(kind, item['loc'][:-1], parts)}")
        elif item["type"] == "missing":
            lines.append(f"{path}: missing")
        elif item["type"] == "value_error":
            lines.append(f"{path}: {cause}" if path else str(cause))
        else:
            lines.append(f"{path} = {item['input']!r}: {item['msg']}")
    return lines


def _options_at(kind: type, path: tuple, parts: Mapping[str, type]) -> str:
    """The options of the spec that a path inside `kind` leads to; unions are told apart by their tag."""
    tags = [registry[step] for step in path for registry in (OPERATORS, BLOCKS) if step in registry]
    named = {"stem": Stem, "head": Head, **parts}
    owner = tags[-1] if tags else named[path[-1]] if path and path[-1] in named else kind
    return ", ".join(field.name for field in fields(owner) if field.name not in ("op", "kind"))


def _block(block) -> None:
    _at_least("width", block.width, 1)
    if block.stride == 1 and hasattr(block, "shortcut"):
        object.__setattr__(block, "shortcut", "conv")
    if block.kind != "basic":
        _at_least("expansion", block.expansion, 1)
    pointwise = getattr(block, "pointwise", None)
    if pointwise is not None:
        if getattr(pointwise, "kernel_size", None) != 1:
            raise ValueError(f"pointwise = {pointwise!r}: allowed is conv or odconv with `kernel_size: 1`")
        if pointwise == Conv(kernel_size=1):
            object.__setattr__(block, "pointwise", None)


def _odd(name: str, value: int) -> None:
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name} = {value!r}: allowed is an odd number from 1")


def _at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} = {value!r}: allowed is {lowest} or more")


def _groups(value: Groups) -> None:
    if value != "depthwise" and (isinstance(value, str) or value < 1):
        raise ValueError(f"groups = {value!r}: allowed is a positive number or 'depthwise'")
