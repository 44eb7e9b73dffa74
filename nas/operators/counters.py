"""What thop, and so ultralytics, prints of the operators: multiply-accumulates as torch counts them."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import torch
from torch import nn

from nas.kernels._core.imports import when_imported


def count_for_thop(kinds: tuple[type[nn.Module], ...]) -> None:
    """Give thop a rule for each of these classes as soon as it is imported.

    fvcore needs none: it looks at the operations of a traced graph, where the layers are PyTorch's own.
    """

    def register(profile: ModuleType) -> None:
        def add(layer: Any, inputs: tuple[torch.Tensor, ...], _: Any) -> None:
            for child in layer.children():
                for inside in child.modules():
                    inside.total_ops *= 0  # that of ultralytics adds them, the older one where the layer is the model
            layer.total_ops += macs(layer, *inputs)

        profile.register_hooks.update(dict.fromkeys(kinds, add))

    when_imported("thop.profile", register)


def macs(layer: nn.Module, *inputs: torch.Tensor) -> float:
    """Multiply-accumulates of a layer for inputs of these shapes."""
    from torch.utils.flop_counter import FlopCounterMode

    bare = copy.deepcopy(layer).to("meta").eval()
    for module in bare.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bare(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() / 2
