"""dilated: a network whose last stages keep their resolution and see as far by dilation, for dense prediction."""

from __future__ import annotations

from dataclasses import replace

from nas.space import specs
from nas.space.genotype import Genotype


def dilated(genotype: Genotype, output_stride: int) -> Genotype:
    """The genotype with the whole stride lowered to `output_stride` where it is more; same weights, other map sizes.

    A stage that would go beyond keeps its input's resolution; its operators take twice the dilation, but for those of
    the first block, which keep that of the stage before (SCNet's and torchvision's rule). Raises ValueError for stages
    of gated blocks, whose convolution before the stage is as wide as its stride, and for operators without a dilation.
    """
    if output_stride < 1 or output_stride & (output_stride - 1):
        raise ValueError(f"output_stride = {output_stride!r}: allowed is a power of 2")
    stride, dilation, stages = specs.STEM_STRIDES[genotype.stem.kind], 1, []
    if stride > output_stride:
        raise ValueError(f"output_stride = {output_stride!r}: the {genotype.stem.kind} stem has {stride} already")
    for stage in genotype.stages:
        blocks = []
        for block in stage:
            within = dilation
            if stride * block.stride > output_stride:
                if block.kind == "gated":
                    raise ValueError(f"output_stride = {output_stride!r}: gated blocks have no dilated form")
                dilation *= block.stride
                block = replace(block, stride=1)
            stride *= block.stride
            blocks.append(replace(block, operator=_dilate(block.operator, within)))
        stages.append(tuple(blocks))
    return replace(genotype, stages=tuple(stages))


def undilated(genotype: Genotype) -> Genotype:
    """The genotype without strides and dilations, which a network and its dilated forms have in common."""
    stages = tuple(
        tuple(replace(block, stride=1, operator=_with_dilation(block.operator, 1)) for block in stage)
        for stage in genotype.stages
    )
    return replace(genotype, stages=stages)


def _with_dilation(operator: specs.Operator, dilation: int) -> specs.Operator:
    return replace(operator, dilation=dilation) if hasattr(operator, "dilation") else operator  # type: ignore[call-arg]


def _dilate(operator: specs.Operator, factor: int) -> specs.Operator:
    if factor == 1:
        return operator
    if not hasattr(operator, "dilation"):
        raise ValueError(f"output_stride: {operator.op} has no dilated form; conv, involution, odconv, scconv have")
    return replace(operator, dilation=operator.dilation * factor)  # type: ignore[call-arg, union-attr]
