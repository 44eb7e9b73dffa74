"""A network that starts with the weights which it has in common with a trained one.

Widths, windows, numbers of kernels and orders may differ. A larger network begins as the function that the smaller one
computes, as far as its norms see each channel by itself: weights from channels that the other does not have, and outer
pixels of a window, begin at zero (after Net2Net, https://arxiv.org/abs/1511.05641, without its copies of channels).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas.networks.shared.parts import Dimension, Layout, Part, indices, put, taken
from nas.networks.shared.supernet import shared_layouts
from nas.space.genotype import Genotype

STATISTICS = ("running_mean", "running_var")
"""Of a batch norm; they lie as its weight does."""


@torch.no_grad()
def inherit(
    model: nn.Module,
    genotype: Genotype,
    weights: Mapping[str, Tensor],
    donor: Genotype,
    num_classes: int,
    in_channels: int,
) -> float:
    """Write into the network of `genotype` what it has in common with that of `donor`, whose state dict is `weights`;
    returns the share of its parameters that are from there. Both classify alike."""
    state = model.state_dict()
    theirs = {name: (own, layout) for own, (name, layout) in shared_layouts(donor, num_classes, in_channels).items()}
    given = 0
    for own, (name, mine) in shared_layouts(genotype, num_classes, in_channels).items():
        if name not in theirs:
            continue
        source, other = theirs[name]
        common = in_common(mine, other)
        if common is None:
            continue
        given += taken(state[own], indices(mine, common)).numel()
        _write(state[own], mine, weights[source], other, common)
        for kind in STATISTICS:
            of_norm, of_theirs = (f"{parameter.rpartition('.')[0]}.{kind}" for parameter in (own, source))
            if own.endswith(".weight") and of_norm in state:
                _write(state[of_norm], mine, weights[of_theirs], other, common)
    return given / sum(parameter.numel() for parameter in model.parameters())


def in_common(one: Layout, other: Layout) -> Layout | None:
    """The largest layout that both have room for; None where they have nothing in common."""
    if len(one) != len(other):
        return None
    found = tuple(_both(*pair) for pair in zip(one, other, strict=True))
    return found if all(found) else None


def _both(one: Dimension, other: Dimension) -> Dimension:
    theirs = {part.name: part for part in other}
    return tuple(
        Part(tuple(map(min, part.sizes, theirs[part.name].sizes)), part.centred, part.name)
        for part in one
        if part.name in theirs and part.centred == theirs[part.name].centred
    )


def _write(target: Tensor, mine: Layout, source: Tensor, theirs: Layout, common: Layout) -> None:
    """The common part from `source`; of the rest, what makes further channels begins as it is, all else is zero."""
    values = torch.zeros_like(target)
    fresh = indices(mine, (_as_begun(mine[0], common[0]), *common[1:]))
    put(values, fresh, taken(target, fresh))
    put(values, indices(mine, common), taken(source, indices(theirs, common)))
    target.copy_(values)


def _as_begun(mine: Dimension, common: Dimension) -> Dimension:
    """All channels of the first dimension, but of windows only the middle that is in common."""
    known = {part.name: part for part in common}
    return tuple(
        Part(
            tuple(
                there if centred else size
                for size, there, centred in zip(part.sizes, known.get(part.name, part).sizes, part.centred, strict=True)
            ),
            part.centred,
            part.name,
        )
        for part in mine
    )
