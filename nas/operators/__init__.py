"""The operators a search chooses from. One of the package is a file here, with its options and a line in specs.py; one
of others is a file of theirs, named in the YAML."""

from __future__ import annotations

from dataclasses import fields

from torch import nn

from nas.base.extensions import is_own
from nas.operators.conv import Conv as Conv
from nas.operators.gnconv import GlobalLocalFilter, GnConv2d
from nas.operators.gnconv import GnConv as GnConv
from nas.operators.involution import Involution as Involution
from nas.operators.involution import Involution2d
from nas.operators.odconv import ODConv as ODConv
from nas.operators.odconv import ODConv2d
from nas.operators.scconv import SCConv as SCConv
from nas.operators.scconv import SelfCalibratedConv2d
from nas.space import specs

OPERATORS = {name: specs.OPERATORS.layer(name) for name in specs.OPERATORS if not is_own(name)}


def build_operator(name: str, in_channels: int, out_channels: int, stride: int = 1, **options) -> nn.Module:
    """A fresh operator, [N,C_in,H,W] -> [N,C_out,ceil(H/stride),ceil(W/stride)].

    `name` is one of OPERATORS, or `module:class` of one of others. Its attribute `normalizes` tells whether the output
    is normalised already. Options and their defaults are those of `specs.OPERATORS[name]`. Raises ValueError for an
    unknown name, an unknown or wrong option, a size below 1, and for a class that does not give an nn.Module.
    """
    kind = specs.OPERATORS.find(name)
    for size, value in {"in_channels": in_channels, "out_channels": out_channels, "stride": stride}.items():
        if value < 1:
            raise ValueError(f"{size} = {value!r}: allowed is 1 or more")
    spec = specs.make(name, kind, options)
    chosen = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "op"}
    operator = specs.OPERATORS.layer(name)(in_channels, out_channels, stride=stride, **chosen)
    if not isinstance(operator, nn.Module):
        raise ValueError(f"operator = {name!r}: it must be a torch.nn.Module, not {type(operator).__name__}")
    return operator


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
