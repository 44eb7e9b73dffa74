"""Operators in a detector's neck and head compared: small detectors trained on scattered digits for equal epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from nas.data.scattered import NUM_CLASSES, Scene, scattered_digits
from nas.networks.dense import DenseSpec, build_dense
from nas.space import specs
from nas.space.dense import CONV3
from nas.space.genotype import Genotype
from nas.training.boxes import average_precision
from nas.training.process_state import reset_process

OPERATORS: dict[str, specs.Operator] = {
    "conv": CONV3,
    "involution": specs.Involution(),
    "odconv": specs.ODConv(),
    "scconv": specs.SCConv(pooling=2),
    "gnconv": specs.GnConv(order=2, scale=1.0),
}
SIDE, CHANNELS, BATCH = 96, 32, 8
LEARNING_RATE, WEIGHT_DECAY, CLIP = 2e-3, 0.05, 5.0
"""Of AdamW with one epoch of warm-up and a cosine; gradients are clipped at the norm that involution's papers use."""
ANCHORS = tuple((side, side * 2 ** (1 / 3), side * 2 ** (2 / 3)) for side in (12, 20, 32, 48, 64))


def detector(neck: str, head: str) -> Any:
    """RetinaNet of a narrow ResNet with these operators."""
    blocks = [(16, 1), (32, 2), (32, 2), (64, 2)]  # channels and number of a stage, which halves the map
    stages = tuple(
        tuple(specs.Basic(width=width, stride=1 if j else 2, operator=specs.Conv()) for j in range(count))
        for width, count in blocks
    )
    backbone = Genotype(stem=specs.Stem(kind="small", width=16), stages=stages)
    spec = DenseSpec(kind="retinanet", backbone=backbone, neck=OPERATORS[neck], head=OPERATORS[head], channels=CHANNELS)
    anchors = AnchorGenerator(ANCHORS, ((0.67, 1.0, 1.5),) * len(ANCHORS))
    return build_dense(spec, NUM_CLASSES + 1, 1, min_size=SIDE, max_size=SIDE, anchor_generator=anchors)


def train_detector(neck: str, head: str, seed: int, epochs: int, num_scenes: int = 600) -> dict[str, Any]:
    """Train one on the CPU, on so many scenes, and judge it on a third as many: {box_ap, box_ap50 (0 to 1, by COCO's
    rules), loss of the last epoch, num_params}."""
    train, validation = (scattered_digits(num_scenes // part, SIDE, 0, part == 3) for part in (1, 3))
    reset_process(seed, num_threads=1)
    model = detector(neck, head).train()
    steps = math.ceil(num_scenes / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / steps, 0.5 * (1 + math.cos(math.pi * step / (steps * epochs)))),
    )
    order, last = torch.Generator().manual_seed(seed), 0.0
    for _ in range(epochs):
        last = 0.0
        for rows in torch.randperm(num_scenes, generator=order).split(BATCH):
            batch = [train[row] for row in rows.tolist()]
            losses = model([_floats(scene) for scene in batch], [scene.target() for scene in batch])
            loss = torch.stack(list(losses.values())).sum()
            if not loss.isfinite():
                return {"box_ap": None, "error": "the loss is not finite"}
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            last += float(loss.detach()) / steps
    found = {"loss": round(last, 4), "num_params": sum(parameter.numel() for parameter in model.parameters())}
    return box_ap(model, validation) | found


def _floats(scene: Scene) -> torch.Tensor:
    return scene.image.float() / 255


@torch.no_grad()
def box_ap(model: nn.Module, scenes: list[Scene]) -> dict[str, float]:
    """COCO's average precision of boxes, over IoU 0.5 to 0.95 and at 0.5; 0 to 1. Needs the extra `dense`."""
    model.eval()
    said = [model([_floats(scene)])[0] for scene in scenes]
    found = average_precision(said, [scene.target() for scene in scenes], NUM_CLASSES, SIDE)
    return {name: round(value, 4) for name, value in found.items()}
