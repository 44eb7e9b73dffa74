"""check_own: that the operators and blocks of others keep to what all of the package do, before a search begins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nas.base.extensions import ExtensionError, is_own, what_happened
from nas.networks.blocks import build_block, slot
from nas.space import specs
from nas.space.sections import SpaceConfig

CASES = ((8, 16, 2, 5), (16, 16, 1, 4), (16, 8, 2, 1))
"""Channels that go in and come out, stride, side of the map."""


def check_own(config: SpaceConfig) -> None:
    """Build each operator and block of others and run it on small maps, in training and in inference.

    Raises ExtensionError that names the location in the file, what was asked and what came.
    """
    for label, operator in config.operators.items():
        if is_own(operator.op):
            location = f"space.operators.{label}.op: {operator.op!r}"
            for case in CASES:
                _check(location, lambda c_in, c_out, stride: slot(operator, c_in, c_out, stride), *case)  # noqa: B023
    for i, stage in enumerate(config.stages):
        for kind in filter(is_own, stage.block if isinstance(stage.block, list) else [stage.block]):
            fitting = [operator for operator in config.operators.values() if specs.fits(kind, operator)]
            block = specs.BLOCKS.find(kind)
            for case in CASES:

                def build(c_in: int, c_out: int, stride: int) -> nn.Module:
                    return build_block(c_in, block(width=c_out, operator=fitting[0], stride=stride))  # noqa: B023

                _check(f"space.stages.{i}.block: {kind!r}", build, *case)


def _check(location: str, build: Callable[[int, int, int], nn.Module], c_in: int, c_out: int, stride: int, side: int):
    asked = f"of {c_in} to {c_out} channels with stride {stride} on a map of {side}x{side}"
    try:
        layer, images = build(c_in, c_out, stride), torch.randn(2, c_in, side, side)
        shapes = {tuple(layer.train(training)(images).shape) for training in (True, False)}
    except Exception as error:  # whatever the code of somebody else raises
        raise ExtensionError(f"{location}: fails {asked}: {what_happened(error)}") from None
    wanted = (2, c_out, -(-side // stride), -(-side // stride))
    if shapes != {wanted}:
        raise ExtensionError(f"{location}: gives {list(map(list, shapes))} {asked}; it must give {list(wanted)}")
