"""The operators as layers, each in the place of an nn.Conv2d, and those a search chooses from.

One of the package is a file here, with its options and a line in specs.py; one of others is a file of theirs, named in
the YAML.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.operators.common import largest_divisor
from nas.operators.conv import Conv as Conv
from nas.operators.counters import count_for_thop
from nas.operators.gnconv import GlobalLocalFilter, GnConv2d
from nas.operators.gnconv import GnConv as GnConv
from nas.operators.involution import Involution as Involution
from nas.operators.involution import Involution2d
from nas.operators.odconv import ODConv as ODConv
from nas.operators.odconv import ODConv2d, annealed, set_temperature
from nas.operators.replacing import replace_layers
from nas.operators.scconv import SCConv as SCConv
from nas.operators.scconv import SelfCalibratedConv2d

if TYPE_CHECKING:
    OPERATORS: dict[str, Any]
    """Name -> class of those of the package."""


def __getattr__(name: str) -> Any:
    if name != "OPERATORS":
        raise AttributeError(f"module 'nas.operators' has no attribute {name!r}")
    # when it is asked for: a layer by itself needs no options of a search
    from nas.base.extensions import is_own
    from nas.space import specs

    globals()[name] = {op: specs.OPERATORS.layer(op) for op in specs.OPERATORS if not is_own(op)}
    return globals()[name]


def build_operator(name: str, in_channels: int, out_channels: int, stride: int = 1, **options) -> nn.Module:
    """A fresh operator, [N,C_in,H,W] -> [N,C_out,ceil(H/stride),ceil(W/stride)].

    `name` is one of OPERATORS, or `module:class` of one of others. Its attribute `normalizes` tells whether the output
    is normalised already. Options and their defaults are those of `specs.OPERATORS[name]`; `groups` is lowered to the
    largest divisor of both widths. Raises ValueError for an unknown name, an unknown or wrong option, a size below 1,
    and for a class that does not give an nn.Module.
    """
    from dataclasses import fields

    from nas.base.extensions import is_own
    from nas.space import specs

    kind = specs.OPERATORS.find(name)
    for size, value in {"in_channels": in_channels, "out_channels": out_channels, "stride": stride}.items():
        if value < 1:
            raise ValueError(f"{size} = {value!r}: allowed is 1 or more")
    spec = specs.make(name, kind, options)
    chosen = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "op"}
    if not is_own(name) and isinstance(chosen.get("groups"), int):
        chosen["groups"] = largest_divisor(math.gcd(in_channels, out_channels), chosen["groups"])
    operator = specs.OPERATORS.layer(name)(in_channels, out_channels, stride=stride, **chosen)
    if not isinstance(operator, nn.Module):
        raise ValueError(f"operator = {name!r}: it must be a torch.nn.Module, not {type(operator).__name__}")
    return operator


def replace(
    model: nn.Module,
    kind: type[nn.Module],
    operator: str,
    where: Callable[[str, nn.Conv2d], bool] | None = None,
    **options,
) -> list[str]:
    """Put an operator in the place of a model's convolutions, in place; returns the names of those replaced.

    Of `kind`, nn.Conv2d or a class below it, are replaced all for whose name and module `where` holds (None: all), but
    none inside an operator. `operator` is one of OPERATORS, or `module:class` of one of others, which is built with
    in_channels, out_channels, stride and the options. Ours take over channels, stride, device and dtype, and what else
    they have in common (see `from_conv` of their class); ODConv and the convolution also the weights, so that they
    start as what they replace, and all others start as their `reset_parameters` says. Raises ValueError, and leaves
    the model as it was, where one cannot be replaced.

        replace(model, nn.Conv2d, "odconv", where=lambda name, conv: conv.kernel_size == (3, 3))
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Conv2d)):
        raise ValueError(f"kind = {kind!r}: allowed is torch.nn.Conv2d or a class below it")

    from nas.space import specs

    layer_class = specs.OPERATORS.layer(operator)

    def make(conv: nn.Conv2d) -> nn.Module:
        if hasattr(layer_class, "from_conv"):
            return layer_class.from_conv(conv, **options)
        if len(set(conv.stride)) > 1:
            raise ValueError(f"stride = {conv.stride}: allowed is one for rows and columns")
        layer = build_operator(operator, conv.in_channels, conv.out_channels, conv.stride[0], **options)
        return layer.to(conv.weight).train(conv.training)

    return replace_layers(model, kind, make, where)


count_for_thop((Conv, Involution2d, ODConv2d, SelfCalibratedConv2d, GnConv2d, GlobalLocalFilter))
count_for_thop((Involution, ODConv, SCConv, GnConv))

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
    "annealed",
    "build_operator",
    "replace",
    "set_temperature",
]
