"""The networks as backbones: torchvision's detectors and a segmentation head train a step on them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import nas.networks.published  # noqa: F401  registers the networks

BACKBONES = {"rednet26": {}, "scnet50": {}, "od_resnet18_1x": {}, "hornet_tiny_7x7": {"drop_path_rate": 0.1}}
LEVELS = ["0", "1", "2", "3"]


class Pyramid(nn.Module):
    """The last four features of a network through a feature pyramid, as torchvision's detectors take them."""

    def __init__(self, name: str, **options: Any):
        super().__init__()
        last = (-4, -3, -2, -1)
        self.body: Any = timm.create_model(f"opnas_{name}", features_only=True, out_indices=last, **options)
        assert self.body.feature_info.reduction() == [4, 8, 16, 32]
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 32)
        self.out_channels = 32

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.fpn(OrderedDict(zip(LEVELS, self.body(x), strict=True)))


def faster_rcnn(backbone: nn.Module) -> nn.Module:
    return FasterRCNN(backbone, 3, min_size=96, max_size=128, **_regions())


def mask_rcnn(backbone: nn.Module) -> nn.Module:
    masks = MultiScaleRoIAlign(LEVELS, 14, 2)
    return MaskRCNN(backbone, 3, min_size=96, max_size=128, mask_roi_pool=masks, **_regions())


def retinanet(backbone: nn.Module) -> nn.Module:
    return RetinaNet(backbone, 3, min_size=96, max_size=128, anchor_generator=_anchors())


def _regions() -> dict[str, Any]:
    return {"rpn_anchor_generator": _anchors(), "box_roi_pool": MultiScaleRoIAlign(LEVELS, 7, 2)}


def _anchors() -> AnchorGenerator:
    return AnchorGenerator(((16,), (32,), (64,), (96,)), ((0.5, 1.0, 2.0),) * 4)


def pictures() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two pictures of a bright square or bar on noise, with boxes, labels and masks."""
    torch.manual_seed(0)
    images, targets = [], []
    for i, (x0, y0, x1, y1) in enumerate([(20, 30, 60, 70), (10, 50, 100, 70)]):
        image = 0.2 * torch.rand(3, 96, 112)
        image[:, y0:y1, x0:x1] += 0.7
        mask = torch.zeros(1, 96, 112, dtype=torch.uint8)
        mask[:, y0:y1, x0:x1] = 1
        boxes = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
        images.append(image)
        targets.append({"boxes": boxes, "labels": torch.tensor([i + 1]), "masks": mask})
    return images, targets


@pytest.mark.parametrize("detector", [faster_rcnn, mask_rcnn, retinanet])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_step_of_detection(name, detector):
    images, targets = pictures()
    model = detector(Pyramid(name, **BACKBONES[name])).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    first = next(model.backbone.body.parameters())
    before = first.detach().clone()
    losses = model(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.body.parameters())
    optimizer.step()
    assert not torch.equal(first, before)
    if detector is retinanet:
        model.eval()
        with torch.no_grad():
            assert {"boxes", "scores", "labels"} <= model(images)[0].keys()


@pytest.mark.parametrize(("name", "stride"), [("rednet26", 32), ("scnet50_v1d", 8), ("od_resnet18_1x", 16)])
def test_steps_of_segmentation_lower_the_loss(name, stride):
    images, targets = pictures()
    x, masks = torch.stack(images), torch.cat([target["masks"] for target in targets]).long()
    body: Any = timm.create_model(f"opnas_{name}", features_only=True, out_indices=(1, 2, 3, 4), output_stride=stride)
    assert max(body.feature_info.reduction()) == stride
    fpn, head = FeaturePyramidNetwork(body.feature_info.channels(), 32), nn.Conv2d(32, 2, 1)
    optimizer = torch.optim.AdamW([*body.parameters(), *fpn.parameters(), *head.parameters()], lr=1e-3)
    losses = []
    for _ in range(4):
        maps = fpn(OrderedDict(zip(LEVELS, body(x), strict=True)))
        y = sum(F.interpolate(z, x.shape[2:], mode="bilinear") for z in maps.values())
        loss = F.cross_entropy(head(y), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
