"""Mixup and cutmix of a batch, and the losses of soft targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.config.training import TrainConfig


def mix(images: Tensor, config: TrainConfig, key: int) -> tuple[Tensor, float]:
    """Mix a batch [N, C, H, W] with itself in reverse order; returns it with the share that each image keeps.

    `key` alone decides what is drawn, in the order in which timm draws it. cutmix corrects the share by what the border
    of the map cuts off. Papers: https://arxiv.org/abs/1710.09412, https://arxiv.org/abs/1905.04899.
    """
    if not config.mixup and not config.cutmix:
        return images, 1.0
    random = np.random.RandomState(key % 2**32)
    random.rand()  # timm's coin for mixing at all, which always falls on yes
    use_cutmix = bool(config.cutmix) and (not config.mixup or random.rand() < 0.5)
    alpha = config.cutmix if use_cutmix else config.mixup
    share = float(random.beta(alpha, alpha))
    if not use_cutmix:
        return images.lerp(images.flip(0), 1 - share), share
    height, width = images.shape[-2:]
    top, bottom, left, right = _box(height, width, share, random)
    images = images.clone()
    images[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _box(height: int, width: int, share: float, random: np.random.RandomState) -> tuple[int, int, int, int]:
    """A rectangle around a random centre whose area is 1 - share of the map, cut off at its border."""
    side = math.sqrt(1 - share)
    high, wide = int(height * side), int(width * side)
    row, column = random.randint(0, height), random.randint(0, width)
    rows = max(row - high // 2, 0), min(row + (high + 1) // 2, height)
    columns = max(column - wide // 2, 0), min(column + (wide + 1) // 2, width)
    return *rows, *columns


def soft_targets(labels: Tensor, num_classes: int, share: float, smoothing: float) -> Tensor:
    """int64 [N] -> float32 [N, num_classes]: smoothed one-hot labels mixed with those in reverse order."""
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    targets.scatter_(1, labels[:, None], 1 - smoothing + off)
    return targets if share == 1 else share * targets + (1 - share) * targets.flip(0)


def cross_entropy(logits: Tensor, labels: Tensor, share: float, config: TrainConfig) -> Tensor:
    """Mean cross entropy with labels of which each image keeps `share`."""
    loss = functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if share == 1:
        return loss
    other = functional.cross_entropy(logits, labels.flip(0), label_smoothing=config.label_smoothing)
    return share * loss + (1 - share) * other


def binary_cross_entropy(logits: Tensor, labels: Tensor, share: float, config: TrainConfig) -> Tensor:
    """Mean over images and classes; above `bce_threshold` a target counts as 1, else as 0."""
    targets = soft_targets(labels, logits.shape[1], share, config.label_smoothing).to(logits.dtype)
    if config.bce_threshold is not None:
        targets = targets.gt(config.bce_threshold).to(targets.dtype)
    return functional.binary_cross_entropy_with_logits(logits, targets)


LOSSES: dict[str, Callable[[Tensor, Tensor, float, TrainConfig], Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy,
}


def distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence from the teacher's softened predictions, times temperature squared.

    Paper: https://arxiv.org/abs/1503.02531.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
