"""replace: an operator in the place of a model's convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from nas.operators.layer import Layer


def replace_layers(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    make: Callable[[Any], nn.Module],
    where: Callable[[str, Any], bool] | None,
) -> list[str]:
    """Replace, in place, what `kind` and `where` choose by what `make` gives; all or nothing, names in order."""
    inside: tuple[str, ...] = ()
    made: dict[nn.Module, nn.Module] = {}
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(inside) if inside else False:
            continue
        if isinstance(module, Layer):
            inside = (*inside, f"{name}.")
        if not isinstance(module, kind) or (where is not None and not where(name, module)):
            continue
        if not name:
            raise ValueError("model: allowed is a module around the layers that are to be replaced")
        try:
            made[module] = made[module] if module in made else make(module)
        except ValueError as error:
            raise ValueError(f"{name}: {error}; `where` chooses which are replaced") from None
        found.append((name, module))
    for name, module in found:
        parent, _, attribute = name.rpartition(".")
        _put(model.get_submodule(parent), attribute, made[module])
    return [name for name, _ in found]


def _put(parent: Any, attribute: str, layer: nn.Module) -> None:
    """YOLO's blocks fold their norm into `conv`, as only a convolution lets them: elsewhere it goes with the layer."""
    setattr(parent, attribute, layer)
    if attribute == "conv" and hasattr(parent, "forward_fuse") and hasattr(parent, "bn") and isinstance(layer, Layer):
        parent.conv = nn.Sequential(layer, parent.bn)
        parent.forward = parent.forward_fuse
        del parent.bn
