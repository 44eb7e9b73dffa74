"""The operators a search chooses from. Adding one: a file here, a line in OPERATORS, its options in specs.py."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from nas.operators.conv import Conv
from nas.operators.gnconv import GlobalLocalFilter, GnConv, GnConv2d
from nas.operators.involution import Involution, Involution2d
from nas.operators.odconv import ODConv, ODConv2d
from nas.operators.scconv import SCConv, SelfCalibratedConv2d
from nas.space import specs

OPERATORS = {
    "conv": Conv,
    "involution": Involution,
    "odconv": ODConv,
    "scconv": SCConv,
    "gnconv": GnConv,
}


def build_operator(name: str, in_channels: int, out_channels: int, stride: int = 1, **options) -> nn.Module:
    """A fresh operator, [N,C_in,H,W] -> [N,C_out,ceil(H/stride),ceil(W/stride)].

    Its attribute `normalizes` tells whether the output is normalised already. Options and their defaults are those of
    `specs.OPERATORS[name]`. Raises ValueError for an unknown name, an unknown or wrong option, a size below 1.
    """
    if name not in OPERATORS:
        raise ValueError(f"operator = {name!r}: allowed is one of {', '.join(OPERATORS)}")
    for size, value in {"in_channels": in_channels, "out_channels": out_channels, "stride": stride}.items():
        if value < 1:
            raise ValueError(f"{size} = {value!r}: allowed is 1 or more")
    spec = specs.make(name, specs.OPERATORS[name], options)
    chosen = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "op"}
    return OPERATORS[name](in_channels, out_channels, stride=stride, **chosen)


__all__ = [
    "OPERATORS",
    "Conv",
    "GlobalLocalFilter",
    "GnConv",
    "GnConv2d",
    "Involution",
    "Involution2d",
    "ODConv",
    "ODConv2d",
    "SCConv",
    "SelfCalibratedConv2d",
    "build_operator",
]
