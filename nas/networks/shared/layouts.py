"""How the parameters of blocks and operators are laid out, so that a smaller one finds its share in a larger one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nas.networks.shared.parts import Layout, Part, first, middle
from nas.operators import GnConv2d, Involution2d, ODConv2d

Named = dict[str, tuple[str, Layout]]
"""Name of a parameter -> its name among the shared ones, and its layout."""


def layouts(module: nn.Module) -> Named:
    """Of all parameters. Without a rule of its own a parameter is shared by its first numbers along each dimension; the
    window of a convolution by its middle."""
    found: Named = {}
    for prefix, part in module.named_modules():
        begin = f"{prefix}." if prefix else ""
        own = part.named_parameters(recurse=False)
        found |= {begin + name: (begin + name, _plain(part, parameter)) for name, parameter in own}
    for prefix, part in module.named_modules():
        begin = f"{prefix}." if prefix else ""
        for kind, rule in RULES.items():
            if isinstance(part, kind):
                told = rule(
                    part, {name.removeprefix(begin): entry for name, entry in found.items() if name.startswith(begin)}
                )
                found |= {begin + name: (begin + shared, layout) for name, (shared, layout) in told.items()}
    return found


def _plain(owner: nn.Module, parameter: Tensor) -> Layout:
    windowed = isinstance(owner, nn.Conv2d) and parameter.dim() == 4
    return tuple(
        (middle(size) if windowed and dimension > 1 else first(size),) for dimension, size in enumerate(parameter.shape)
    )


def _begun(entry: tuple[str, Layout], *parts: Part) -> tuple[str, Layout]:
    """The entry with another first dimension."""
    name, layout = entry
    return name, (parts, *layout[1:])


def _involution(layer: Involution2d, known: Named) -> Named:
    """A window for each group of channels."""
    rows, columns = layer.kernel_size
    taps = Part((layer.groups, rows, columns), (False, True, True))
    return {name: _begun(known[name], taps) for name in ("conv2.conv.weight", "conv2.conv.bias")}


def _odconv(layer: ODConv2d, known: Named) -> Named:
    """Several windows, and an attention to the taps of all."""
    name, layout = known["weight"]
    found = {"weight": (name, (*layout[:3], *((middle(size),) for size in layer.kernel_size)))}
    taps = middle(*layer.kernel_size)
    spatial = ("attention.spatial_fc.weight", "attention.spatial_fc.bias")
    return found | {name: _begun(known[name], taps) for name in spatial if name in known}


def _gnconv(layer: GnConv2d, known: Named) -> Named:
    """Steps are counted from the last, which is the widest: one of lower order lacks the first ones."""
    order = len(layer.dims)
    steps = [first(size, f"step {step - order}") for step, size in enumerate(layer.dims)]
    found = {}
    for name in ("proj_in.weight", "proj_in.bias"):
        found[name] = _begun(known[name], first(layer.dims[0], "gate"), *steps)
    if isinstance(layer.dwconv, nn.Conv2d):
        found |= {name: _begun(known[name], *steps) for name in ("dwconv.weight", "dwconv.bias")}
    for at in range(len(layer.pws)):
        for name in ("weight", "bias"):
            given = f"pws.{at}.{name}"
            found[given] = (f"pws.{at - len(layer.pws)}.{name}", known[given][1])
    return found


RULES: Mapping[type[nn.Module], Callable[[Any, Named], Named]] = {
    Involution2d: _involution,
    ODConv2d: _odconv,
    GnConv2d: _gnconv,
}
