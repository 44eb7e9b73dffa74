"""How the authors of the published networks name the entries of their state dicts, against how we name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nas.space import specs
from nas.space.genotype import Genotype

Name = str | tuple[str, str]


@dataclass(frozen=True)
class Names:
    """Our prefix -> theirs, for the stem, a block and what follows the stages.

    Theirs may hold {stage} and {block} (from 0), {layer} (stage from 1), {index} (block of the network, from 1) and
    {last} (one more than the last index). Two names stand for the two halves of our entry along its first axis.
    """

    stem: Mapping[str, Name]
    block: Callable[[specs.Block], Mapping[str, Name]]
    end: Mapping[str, Name]


def published_keys(name: str, genotype: Genotype, own_keys: list[str]) -> dict[str, tuple[str, ...]]:
    """Each of our keys -> its published key, or the two of which it is made, in the order of our state dict.

    Raises ValueError for a network that is not of the family of `name`.
    """
    names = FAMILIES[family(name)]
    starts = [sum(len(stage) for stage in genotype.stages[:i]) for i in range(len(genotype.stages))]
    result = {}
    for key in own_keys:
        position = re.match(r"stages\.(\d+)\.(\d+)\.", key)
        table, rest = {**names.stem, **names.end}, key
        spots = {"last": len(genotype.blocks) + 1}
        if position:
            stage, block = int(position[1]), int(position[2])
            table, rest = names.block(genotype.stages[stage][block]), key[position.end() :]
            spots |= {"stage": stage, "layer": stage + 1, "block": block, "index": starts[stage] + block + 1}
        prefix = max((ours for ours in table if rest.startswith(ours)), key=len, default=None)
        if prefix is None:
            raise ValueError(f"the model has {key}, which no network of the family of {name} has")
        theirs = table[prefix]
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        result[key] = tuple(template.format(**spots) + rest.removeprefix(prefix) for template in theirs)
    return result


def family(name: str) -> str:
    """The key of FAMILIES for a published network's name."""
    if name.startswith("scnet"):
        return "scnet_v1d" if name.endswith("v1d") else "scnet"
    return next(kind for kind in FAMILIES if name.removeprefix("od_").startswith(kind))


def _under(prefix: str, names: Mapping[str, Name]) -> dict[str, Name]:
    return {
        ours: tuple(prefix + part for part in theirs) if isinstance(theirs, tuple) else prefix + theirs
        for ours, theirs in names.items()
    }  # type: ignore[return-value]


RESIDUAL: dict[str, Name] = {
    "conv1.": "conv1.",
    "norm1.": "bn1.",
    "conv2.": "conv2.",
    "norm2.": "bn2.",
    "conv3.": "conv3.",
    "norm3.": "bn3.",
    "shortcut.conv.": "downsample.0.",
    "shortcut.norm.": "downsample.1.",
}
SELF_CALIBRATED: dict[str, Name] = RESIDUAL | {
    "conv1.": ("conv1_a.", "conv1_b."),
    "norm1.": ("bn1_a.", "bn1_b."),
    "conv2.": "scconv.",
    "conv2.k1.": "k1.",
}
POOLED_SHORTCUT: dict[str, Name] = {"shortcut.conv.": "downsample.1.", "shortcut.norm.": "downsample.2."}
EXPANDED: dict[str, Name] = {
    "expand.0.": "0.0.",
    "expand.1.": "0.1.",
    "conv.": "1.0.",
    "norm.": "1.1.",
    "project.0.": "2.",
    "project.1.": "3.",
}
UNEXPANDED: dict[str, Name] = {"conv.": "0.0.", "norm.": "0.1.", "project.0.": "1.", "project.1.": "2."}
GATED: dict[str, Name] = {
    "norm1.": "norm1.",
    "conv.": "gnconv.",
    "norm2.": "norm2.",
    "fc1.": "pwconv1.",
    "fc2.": "pwconv2.",
    "scale1": "gamma1",
    "scale2": "gamma2",
}
CONVNEXT: dict[str, Name] = {
    "conv.": "conv_dw.",
    "norm2.": "norm.",
    "fc1.": "mlp.fc1.",
    "fc2.": "mlp.fc2.",
    "scale2": "gamma",
}
LAYER = "layer{layer}.{block}."
RESNET_STEM: dict[str, Name] = {"stem.0.": "conv1.", "stem.1.": "bn1."}
FC: dict[str, Name] = {"head.fc.": "fc."}
FAMILIES = {
    "rednet": Names(
        stem={
            "stem.0.": "backbone.stem.0.conv.",
            "stem.1.": "backbone.stem.0.bn.",
            "stem.3.": "backbone.stem.1.",
            "stem.4.": "backbone.stem.2.",
            "stem.6.": "backbone.stem.4.conv.",
            "stem.7.": "backbone.stem.4.bn.",
        },
        block=lambda spec: _under("backbone." + LAYER, RESIDUAL),
        end={"head.fc.": "head.fc."},
    ),
    "resnet": Names(stem=RESNET_STEM, block=lambda spec: _under(LAYER, RESIDUAL), end=FC),
    "scnet": Names(stem=RESNET_STEM, block=lambda spec: _under(LAYER, SELF_CALIBRATED), end=FC),
    "scnet_v1d": Names(
        stem={f"stem.{i}.": f"conv1.{i}." for i in (0, 1, 3, 4, 6)} | {"stem.7.": "bn1."},
        block=lambda spec: _under(LAYER, SELF_CALIBRATED | POOLED_SHORTCUT),
        end=FC,
    ),
    "mobilenetv2": Names(
        stem={"stem.0.": "features.0.0.", "stem.1.": "features.0.1."},
        block=lambda spec: _under(
            "features.{index}.conv.", UNEXPANDED if getattr(spec, "expansion", 0) == 1 else EXPANDED
        ),
        end={
            "conv_head.0.": "features.{last}.0.",
            "conv_head.1.": "features.{last}.1.",
            "head.fc.": "classifier.1.",
        },
    ),
    "hornet": Names(
        stem={"stem.0.": "downsample_layers.0.0.", "stem.1.": "downsample_layers.0.1."},
        block=lambda spec: _under("stages.{stage}.{block}.", GATED) | {"downsample.": "downsample_layers.{stage}."},
        end={"head.norm.": "norm.", "head.fc.": "head."},
    ),
    "convnext": Names(
        stem={"stem.0.": "stem.0.", "stem.1.": "stem.1."},
        block=lambda spec: (
            _under("stages.{stage}.blocks.{block}.", CONVNEXT) | {"downsample.": "stages.{stage}.downsample."}
        ),
        end={"head.norm.": "head.norm.", "head.fc.": "head.fc."},
    ),
}
