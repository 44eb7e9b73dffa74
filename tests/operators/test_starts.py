"""Where operators and networks start: signals keep their size and distribution; published networks as published."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from test_operators import VARIANTS, build
from torch import Tensor, nn

from nas.networks.model import build_model
from nas.operators import OPERATORS, build_operator
from nas.space import specs
from nas.space.dilation import dilated
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED, is_published

SPECS = {
    "conv": specs.Conv(),
    "conv_depthwise": specs.Conv(kernel_size=7, groups="depthwise"),
    "involution_3": specs.Involution(kernel_size=3),
    "involution_7": specs.Involution(),
    "odconv": specs.ODConv(),
    "odconv_8": specs.ODConv(num_kernels=8),
    "scconv": specs.SCConv(pooling=2),
    **{f"gnconv_{order}": specs.GnConv(order=order) for order in (2, 3, 4, 5)},
    "gnconv_global": specs.GnConv(filter="global", grid=(8, 5)),
}


def kurtosis(y: Tensor) -> float:
    """3 for a normal distribution; hundreds where a few values are most of the variance."""
    y = y - y.mean()
    return (y.pow(4).mean() / y.square().mean().square()).item()


@pytest.mark.parametrize(("channels", "side"), [(64, 16), (512, 4), (16, 56)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_operator_keeps_size_and_distribution_of_its_input(variant, channels, side):
    operator = build(variant, channels, channels).train()
    y = operator(torch.randn(4, channels, side, side))
    assert 0.2 < y.std() < 2 and kurtosis(y) < 8


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "gated"])
@pytest.mark.parametrize("operator", SPECS)
def test_signals_and_gradients_through_24_blocks(operator, kind):
    """No outliers that one block hands to the next, and gradients that every block's operator gets."""
    options = {"width": 32, "operator": SPECS[operator]} | ({"layer_scale": 1.0} if kind == "gated" else {})
    stages = tuple(
        tuple(specs.BLOCKS[kind](stride=1 if i == 0 or j else 2, **options) for j in range(12)) for i in range(2)
    )
    torch.manual_seed(0)
    model = build_model(Genotype(stem=specs.Stem(kind="small", width=16), stages=stages), 10, 1).train()
    blocks = [block for stage in model.stages.children() for block in stage.children()]
    slots = [block.get_submodule("conv" if kind == "gated" else "conv2") for block in blocks]
    seen: list[Tensor] = []
    for slot in slots:
        slot.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    loss = nn.functional.cross_entropy(model(torch.randn(32, 1, 8, 8)), torch.arange(32) % 10)
    loss.backward()
    assert max(map(kurtosis, seen)) < 60  # before these starts: 2,000 and more, or vanished below the norm's epsilon
    assert all(y.std() > 0.01 for y in seen)
    moved = [
        math.hypot(*(p.grad.norm().item() for p in slot.parameters() if p.grad is not None))
        / math.hypot(*(p.norm().item() for p in slot.parameters()))
        for slot in slots
    ]
    assert max(moved) < 2000 * min(moved) and max(moved) < 20 and min(moved) > 1e-6


class UNet(nn.Module):
    """Two levels, from the operator and ReLU, with or without norms."""

    def __init__(self, name: str, is_normed: bool):
        super().__init__()

        def block(c_in: int, c_out: int) -> nn.Module:
            norm = nn.BatchNorm2d(c_out) if is_normed else nn.Identity()
            return nn.Sequential(build_operator(name, c_in, c_out), norm, nn.ReLU())

        self.down1, self.down2, self.up = block(8, 16), block(16, 32), block(32 + 16, 16)
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(self.first(x))
        coarse = self.down2(nn.functional.max_pool2d(fine, 2))
        return self.last(self.up(torch.cat((fine, nn.functional.interpolate(coarse, scale_factor=2.0)), 1)))


@pytest.mark.parametrize("is_normed", [True, False])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_bare_layer_learns_in_a_unet(name, is_normed):
    """Blurred squares from noisy ones: the error falls to a third of that of the mean within 60 steps."""
    torch.manual_seed(0)
    model = UNet(name, is_normed)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    clean = nn.functional.interpolate((torch.rand(16, 1, 4, 4) > 0.6).float(), scale_factor=4.0)
    target = nn.functional.avg_pool2d(clean, 3, 1, 1)
    for _ in range(60):
        loss = nn.functional.mse_loss(model(clean + 0.3 * torch.randn_like(clean)), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert loss < target.var() / 3


@pytest.mark.parametrize("name", OPERATORS)
def test_a_bare_layer_learns_in_timms_resnet18(name):
    torch.manual_seed(0)
    model: Any = timm.create_model("resnet18", num_classes=4, in_chans=1, channels=(16, 32, 48, 64))
    for block in [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]:
        for attribute in ("conv1", "conv2"):
            old = getattr(block, attribute)
            setattr(block, attribute, build_operator(name, old.in_channels, old.out_channels, old.stride[0]))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    labels = torch.arange(16) % 4
    images = torch.zeros(16, 1, 32, 32)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 16 * (label // 2) : 16 * (label // 2) + 16, 16 * (label % 2) : 16 * (label % 2) + 16] = 1
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images + 0.5 * torch.randn_like(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.6, losses[::10]  # 1.39 for nothing learnt


def stds(model: nn.Module) -> dict[str, float]:
    return {name: p.std().item() for name, p in model.named_parameters() if p.dim() > 1 and p.numel() > 500}


def test_published_networks_start_as_published():
    torch.manual_seed(0)
    for name in ("hornet_tiny_gf", "convnext_tiny"):
        for parameter, std in stds(build_model(PUBLISHED[name])).items():
            assert std == pytest.approx(0.02, rel=0.15), parameter
    rednet = stds(build_model(PUBLISHED["rednet26"]))
    span = "stages.0.0.conv2.conv2.conv.weight"
    assert rednet[span] == pytest.approx((2 / (49 * 4)) ** 0.5, rel=0.1)
    odnet: Any = build_model(PUBLISHED["od_resnet18_4x"]).get_submodule("stages.0.0.conv1")
    assert odnet.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert not odnet.attention.filter_fc.bias.any() and odnet.attention.filter_fc.weight.std() > 0.15


def test_all_others_start_by_the_rule_of_their_operators():
    """One block less, and the network is no published one; with dilated stages it is."""
    torch.manual_seed(0)
    rednet = PUBLISHED["rednet26"]
    assert is_published(rednet) and is_published(dilated(rednet, 8))
    smaller = replace(rednet, stages=rednet.stages[:3])
    assert not is_published(smaller)
    published, ours = build_model(rednet), build_model(smaller)
    bias = "stages.0.0.conv2.conv2.conv.bias"
    assert not published.get_parameter(bias).any()
    kernel = ours.get_parameter(bias).view(4, 49)
    torch.testing.assert_close(kernel.norm(dim=1), torch.ones(4))
    assert (kernel[:, 24] > 5 * kernel[:, 0]).all()
    assert not build_model(dilated(rednet, 8)).get_parameter(bias).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_reset_parameters_draws_the_start_again(variant):
    """As with torch's layers: other numbers of the same distribution."""
    operator: Any = build(variant, 64, 64)
    before = {name: p.detach().clone() for name, p in operator.named_parameters()}
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(7)
    operator.reset_parameters()
    if type(operator) is nn.Conv2d:
        return  # torch's own class has its own start
    for name, parameter in operator.named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 500:
            assert parameter.std().item() == pytest.approx(before[name].std().item(), rel=0.2), name
            assert not torch.equal(parameter, before[name])
        assert abs(parameter.mean() - before[name].mean()) < 1, name
