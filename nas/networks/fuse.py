"""The form of a network for inference alone: norms and layer scales are folded into the weights before them, sums and
activations into the convolutions."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from nas.networks.blocks import BasicBlock, BottleneckBlock, GatedBlock, InvertedResidualBlock
from nas.operators.conv import Conv, FusedConv2d
from nas.operators.gnconv import GlobalLocalFilter, GnConv2d
from nas.operators.involution import Involution
from nas.operators.odconv import Attention, ODConv, ODConv2d

Model = TypeVar("Model", bound=nn.Module)
FOLLOWED: dict[type[nn.Module], tuple[tuple[str, str, str, bool], ...]] = {
    BasicBlock: (("conv1", "norm1", "act1", False), ("conv2", "norm2", "act2", True)),
    BottleneckBlock: (
        ("conv1", "norm1", "act1", False),
        ("conv2", "norm2", "act2", False),
        ("conv3", "norm3", "act3", True),
    ),
    InvertedResidualBlock: (("conv", "norm", "act", False), ("project.0", "project.1", "", True)),
}
"""Layers with the norm and the activation behind them, and whether the sum of the block stands between."""
PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    kind: tuple((layer, norm) for layer, norm, *_ in layers if "." not in norm) for kind, layers in FOLLOWED.items()
} | {Attention: (("fc", "bn"),)}
"""Layers with the norm behind them; those within a sequence are found there."""
ACTIVATIONS = {nn.ReLU: "relu", nn.ReLU6: "relu6"}


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift, per channel, in float64."""

    scale: Tensor
    shift: Tensor


def fuse_for_inference(model: Model, device: torch.device | str | None = None) -> Model:
    """A copy of `model` with the same outputs in eval mode and fewer steps, which does not train, for a device (None:
    where the model is).

    Folded are BatchNorm into the convolution before it (dense, grouped, depthwise, the last 1x1 of an operator, all n
    kernels of ODConv, the convolutions inside involution, attentions and SC-conv), and HorNet's layer scale into the
    layer before it. A norm right behind an involution stays: no weight stands before it. Activations and the sums of
    residual blocks become part of the convolutions before them, but for ODConv. On a GPU global filters of up to 16x16
    keep their matrices (float32, 37 MB for 240 channels of 14x14, 0.67 GB for a whole HorNet-T). Without gradients
    gnConv's first gate and, where a table of measured times says so, its recursion and the spanning of involution's
    kernels are fused as well. The copy's state dict is its own.
    """
    fused = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    with torch.no_grad():
        for module in list(fused.modules()):
            if isinstance(module, nn.Sequential):
                pairs = tuple(itertools.pairwise(module._modules))
            else:
                pairs = PAIRS.get(type(module), ())
            for before, norm in pairs:
                affine = _affine(module._modules[norm])
                if affine and fold(module.get_submodule(before), affine):
                    module._modules[norm] = nn.Identity()
            if isinstance(module, GatedBlock):
                _fold_layer_scales(module)
            if isinstance(module, GlobalLocalFilter):
                module.keep_matrices()
    for module in list(fused.modules()):
        followed = FOLLOWED.get(type(module), ())
        if type(module) is nn.Sequential:
            names = list(module._modules)
            followed = tuple((*three, False) for three in zip(names, names[1:], names[2:], strict=False))
        for layer in followed:
            _extend(module, *layer)
    return fused


def _extend(module: nn.Module, layer: str, norm: str, act: str, summed: bool) -> None:
    """Let the last convolution of a layer do what follows it, where nothing is left of the norm between."""
    activation = ACTIVATIONS.get(type(module.get_submodule(act)))
    if not isinstance(module.get_submodule(norm), nn.Identity) or not (activation or summed):
        return
    path, _, name = layer.rpartition(".")
    owner = module.get_submodule(path)
    if not summed and isinstance(getattr(owner._modules[name], "after", None), nn.Conv2d):
        owner, name = owner.get_submodule(name), "after"
    last = owner._modules[name]
    if type(last) is nn.Conv2d:
        owner._modules[name] = FusedConv2d(last, activation)
        if activation:
            module._modules[act] = nn.Identity()


def fold(module: nn.Module, affine: Affine) -> bool:
    """Applies `affine` to the output of `module` by its weights; False where it has none that could."""
    last = getattr(module, "after", None) if isinstance(module, Conv | ODConv | Involution) else None
    if isinstance(last, nn.Conv2d):
        if isinstance(module, Involution) and module.bias is not None:
            module.bias.mul_(affine.scale)
        return fold(last, affine)
    if isinstance(module, GnConv2d):
        return fold(module.proj_out, affine)
    if isinstance(module, ODConv2d):
        module.weight.copy_(module.weight * affine.scale[:, None, None, None])
        if "bias" in module._parameters:
            module.bias.mul_(affine.scale)
        module.shift = affine.shift[:, None, None].to(module.weight)
        return True
    if isinstance(module, nn.Conv2d | nn.Linear):
        bias = affine.shift if module.bias is None else module.bias * affine.scale + affine.shift
        module.weight.copy_(module.weight * affine.scale.view(-1, *[1] * (module.weight.dim() - 1)))
        module.bias = nn.Parameter(bias.to(module.weight), requires_grad=False)
        return True
    return False


def _affine(norm: nn.Module | None) -> Affine | None:
    """What a norm with running statistics does in eval mode; None for anything else."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        return None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale = scale * norm.weight
        shift = norm.bias - mean * scale
    return Affine(scale, shift)


def _fold_layer_scales(block: GatedBlock) -> None:
    for layer, name in ((block.conv, "scale1"), (block.fc2, "scale2")):
        factor = getattr(block, name)
        if factor is not None and fold(layer, Affine(factor.double(), torch.zeros_like(factor).double())):
            setattr(block, name, None)
