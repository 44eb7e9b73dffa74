"""Blocks with operator slots, stems and heads: the modules that the specs of a genotype stand for.

All take and give [N, C, H, W]; every operator may fill every slot that `nas.space.specs.fits` allows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.operators import build_operator
from nas.operators.common import (
    BatchNorm2d,
    ChannelLayerNorm,
    hornet_,
    kaiming_,
    normal_,
    undrawn,
    unit_,
)
from nas.operators.conv import FusedConv2d
from nas.space import specs


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the branch of a whole sample with probability `rate`, rescaling the rest.

    Paper: https://arxiv.org/abs/1603.09382
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class BasicBlock(nn.Module):
    """ReLU(shortcut(x) + norm(slot(ReLU(norm(slot(x)))))); the first slot carries the stride.

    Paper: https://arxiv.org/abs/1512.03385
    """

    def __init__(self, in_channels: int, spec: specs.Basic, drop_path: float = 0.0):
        super().__init__()
        self.conv1 = slot(spec.operator, in_channels, spec.width, spec.stride)
        self.norm1 = norm_after(self.conv1, spec.width)
        self.act1 = nn.ReLU()
        self.conv2 = slot(spec.operator, spec.width, spec.width)
        self.norm2 = norm_after(self.conv2, spec.width)
        self.act2 = nn.ReLU()
        self.shortcut = shortcut(in_channels, spec.width, spec.stride, spec.shortcut)
        self.drop_path = DropPath(drop_path)
        if spec.zero_init:
            zero_scale(self.norm2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(residual_add(self.conv2, self.norm2, self.drop_path, y, self.shortcut(x)))


class BottleneckBlock(nn.Module):
    """ReLU(shortcut(x) + norm(1x1(ReLU(norm(slot(ReLU(norm(1x1(x)))))))), with width / expansion channels inside.

    With involution in the slot it is RedNet's block, with ODConv in all three OD-ResNet's. With SC-conv it is SCNet's:
    the two 1x1 branches there are the two halves of ours, and the norms of the halves are inside the operator.
    """

    def __init__(self, in_channels: int, spec: specs.Bottleneck, drop_path: float = 0.0):
        super().__init__()
        mid = spec.width // spec.expansion
        pooled = spec.downsample == "avgpool"
        self.conv1 = slot(spec.pointwise or POINTWISE, in_channels, mid)
        self.norm1 = BatchNorm2d(mid)
        self.act1 = nn.ReLU()
        self.conv2 = slot(spec.operator, mid, mid, 1 if pooled else spec.stride)
        self.norm2 = norm_after(self.conv2, mid)
        self.act2 = nn.ReLU()
        self.pool = nn.AvgPool2d(3, spec.stride, padding=1) if pooled else nn.Identity()
        self.conv3 = slot(spec.pointwise or POINTWISE, mid, spec.width)
        self.norm3 = BatchNorm2d(spec.width)
        self.act3 = nn.ReLU()
        self.shortcut = shortcut(in_channels, spec.width, spec.stride, spec.shortcut)
        self.drop_path = DropPath(drop_path)
        if spec.zero_init:
            zero_scale(self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.pool(self.act2(self.norm2(self.conv2(y))))
        return self.act3(residual_add(self.conv3, self.norm3, self.drop_path, y, self.shortcut(x)))


class InvertedResidualBlock(nn.Module):
    """x + norm(1x1(ReLU6(norm(slot(ReLU6(norm(1x1(x)))))), without the sum where the shape changes.

    Paper: https://arxiv.org/abs/1801.04381
    """

    def __init__(self, in_channels: int, spec: specs.InvertedResidual, drop_path: float = 0.0):
        super().__init__()
        hidden = in_channels * spec.expansion
        pointwise = spec.pointwise or POINTWISE
        self.residual = spec.stride == 1 and in_channels == spec.width
        self.expand = nn.Sequential()
        if spec.expansion != 1:
            self.expand = nn.Sequential(slot(pointwise, in_channels, hidden), BatchNorm2d(hidden), nn.ReLU6())
        self.conv = slot(spec.operator, hidden, hidden, spec.stride)
        self.norm = norm_after(self.conv, hidden)
        self.act = nn.ReLU6()
        self.project = nn.Sequential(slot(pointwise, hidden, spec.width), BatchNorm2d(spec.width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(self.expand(x))))
        layer, norm = self.project
        return residual_add(layer, norm, self.drop_path, y, x) if self.residual else norm(layer(y))


class GatedBlock(nn.Module):
    """x += scale1 . slot(LN(x)); x += scale2 . MLP(LN(x)), the form of HorNet; ConvNeXt's is in `specs.Gated`.

    A change of size or width happens before it: LN and a convolution with kernel = stride.
    Paper: https://arxiv.org/abs/2207.14284
    """

    def __init__(self, in_channels: int, spec: specs.Gated, drop_path: float = 0.0):
        super().__init__()
        width, hidden = spec.width, spec.width * spec.expansion
        self.residuals = spec.residuals
        self.downsample = nn.Sequential()
        if spec.stride != 1 or in_channels != width:
            self.downsample = Downsample(in_channels, width, spec.stride)
        self.norm1 = ChannelLayerNorm(width) if spec.residuals == 2 else nn.Identity()
        self.conv = slot(spec.operator, width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = undrawn(nn.Linear, width, hidden)
        self.fc2 = undrawn(nn.Linear, hidden, width)
        self.scale1 = layer_scale(width, spec.layer_scale) if spec.residuals == 2 else None
        self.scale2 = layer_scale(width, spec.layer_scale)
        self.drop_path = DropPath(drop_path)
        unit_(self.fc1)
        unit_(self.fc2)

    def reset_as_published(self) -> None:
        """The start of HorNet and ConvNeXt: all weights of N(0, 0.02), biases 0."""
        hornet_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        y = scaled(self.conv(self.norm1(x)), self.scale1)
        if self.residuals == 2:
            x = y = x + self.drop_path(y)
        y = self.norm2(y.permute(0, 2, 3, 1))
        y = self.fc2(F.gelu(self.fc1(y))).permute(0, 3, 1, 2)
        return x + self.drop_path(scaled(y, self.scale2))


class PatchConv2d(nn.Conv2d):
    """A convolution of k x k pixels with stride k, of unit gain at the start."""

    def __init__(self, in_channels: int, width: int, side: int):
        super().__init__(in_channels, width, side, stride=side)

    def reset_parameters(self) -> None:
        unit_(self)

    def reset_as_published(self) -> None:
        hornet_(self)


class Downsample(nn.Sequential):
    """LN and a convolution with kernel = stride; a side of one pixel, which it could not take, stays one pixel."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__(ChannelLayerNorm(in_channels), PatchConv2d(in_channels, width, stride))
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        x = self[0](input)
        height, width = x.shape[2:]
        return self[1](F.pad(x, (0, max(self.stride - width, 0), 0, max(self.stride - height, 0))))


def residual_add(layer: nn.Module, norm: nn.Module, drop_path: nn.Module, x: Tensor, shortcut: Tensor) -> Tensor:
    """The end of a residual branch: shortcut + drop_path(norm(layer(x))), or what a fused layer makes of both."""
    if isinstance(layer, FusedConv2d):
        return layer(x, shortcut)
    return shortcut + drop_path(norm(layer(x)))


POINTWISE = specs.Conv(kernel_size=1)


def build_block(in_channels: int, spec: specs.Block, drop_path: float = 0.0) -> nn.Module:
    """A fresh block, [N,in_channels,H,W] -> [N,width,ceil(H/stride),ceil(W/stride)]. Raises ValueError."""
    block = specs.BLOCKS.layer(spec.kind)(in_channels, spec, drop_path)
    if not isinstance(block, nn.Module):
        raise ValueError(f"block = {spec.kind!r}: it must be a torch.nn.Module, not {type(block).__name__}")
    return block


def build_stem(spec: specs.Stem, in_channels: int) -> nn.Sequential:
    """The stem's layers; see `nas.space.specs.Stem`."""
    width, half = spec.width, spec.width // 2
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    if spec.kind == "resnet":
        return nn.Sequential(*conv_norm_relu(in_channels, width, 7, 2), pool)
    if spec.kind == "deep":
        first = conv_norm_relu(in_channels, half, 3, 2)
        return nn.Sequential(*first, *conv_norm_relu(half, half, 3), *conv_norm_relu(half, width, 3), pool)
    if spec.kind == "rednet":
        involution = [build_operator("involution", half, half, kernel_size=spec.kernel_size), BatchNorm2d(half)]
        first = conv_norm_relu(in_channels, half, 3, 2)
        return nn.Sequential(*first, *involution, nn.ReLU(), *conv_norm_relu(half, width, 3), pool)
    if spec.kind == "patchify":
        return nn.Sequential(PatchConv2d(in_channels, width, 4), ChannelLayerNorm(width))
    if spec.kind == "mobilenet":
        return nn.Sequential(*conv_norm_relu(in_channels, width, 3, 2)[:2], nn.ReLU6())
    return nn.Sequential(*conv_norm_relu(in_channels, width, 3))


def build_conv_head(in_channels: int, spec: specs.Head) -> nn.Sequential:
    """What maps the last stage to the features that are pooled: the mobilenet head's 1x1 slot, else nothing."""
    if spec.kind != "mobilenet":
        return nn.Sequential()
    assert spec.width is not None  # checked by the spec
    return nn.Sequential(slot(spec.operator or POINTWISE, in_channels, spec.width), BatchNorm2d(spec.width), nn.ReLU6())


POOLS = {
    "avg": lambda x: x.mean((2, 3), keepdim=True),
    "max": lambda x: x.amax((2, 3), keepdim=True),
    "avgmax": lambda x: (x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)) / 2,
    "": lambda x: x,
}


class Head(nn.Module):
    """[N, C, H, W] -> logits [N, num_classes]: pool, norm, dropout, linear.

    Without pooling (`pool` = "") the rest acts at every position: [N, num_classes, H, W]. Without classes the features
    come out. `dropout` None is that of the spec.
    """

    def __init__(self, in_channels: int, spec: specs.Head, num_classes: int, dropout: float | None, pool: str):
        super().__init__()
        self.in_channels = in_channels
        self.spec = spec
        self.norm = ChannelLayerNorm(in_channels) if spec.kind == "norm" else nn.Identity()
        self.dropout = nn.Dropout(spec.dropout if dropout is None else dropout)
        self.reset(num_classes, pool)

    def reset(self, num_classes: int, pool: str) -> None:
        """A fresh classifier; raises ValueError for an unknown pooling."""
        if pool not in POOLS:
            raise ValueError(f"global_pool = {pool!r}: allowed is one of {', '.join(map(repr, POOLS))}")
        self.pool = pool
        self.fc = nn.Linear(self.in_channels, num_classes) if num_classes else nn.Identity()
        if isinstance(self.fc, nn.Linear) and not self.spec.uniform_init:
            normal_(self.fc.weight, 0.02 if self.spec.kind == "norm" else 0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(self.norm(POOLS[self.pool](x)))
        x = x.flatten(1) if self.pool else x.permute(0, 2, 3, 1)
        x = x if pre_logits else self.fc(x)
        return x if self.pool else x.permute(0, 3, 1, 2)


def slot(operator: specs.Operator, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """The operator that fills a slot."""
    options = asdict(operator)
    return build_operator(options.pop("op"), in_channels, out_channels, stride, **options)


def norm_after(operator: nn.Module, channels: int) -> nn.Module:
    """BatchNorm, unless the operator's output is normalised already."""
    return nn.Identity() if getattr(operator, "normalizes", False) else BatchNorm2d(channels)


def shortcut(in_channels: int, width: int, stride: int, kind: str) -> nn.Sequential:
    """The path beside a residual branch: nothing, or a 1x1 convolution after average pooling or with the stride."""
    if stride == 1 and in_channels == width:
        return nn.Sequential()
    pooled = kind == "avgpool"
    layers = OrderedDict()
    if pooled:
        layers["pool"] = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    layers["conv"] = nn.Conv2d(in_channels, width, 1, 1 if pooled else stride, bias=False)
    layers["norm"] = BatchNorm2d(width)
    kaiming_(layers["conv"])
    return nn.Sequential(layers)


def conv_norm_relu(in_channels: int, width: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
    kaiming_(convolution)
    return [convolution, BatchNorm2d(width), nn.ReLU()]


def zero_scale(norm: nn.Module) -> None:
    """Start a residual branch at zero; operators that normalise inside keep their start."""
    if isinstance(norm, nn.BatchNorm2d):
        nn.init.zeros_(norm.weight)


def layer_scale(width: int, start: float) -> nn.Parameter | None:
    return nn.Parameter(torch.full((width,), start)) if start else None


def scaled(x: Tensor, scale: nn.Parameter | None) -> Tensor:
    return x if scale is None else x * scale[:, None, None]
