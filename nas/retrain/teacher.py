"""The network that a retraining learns from, given the student's images as it wants them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.data.batches import OpenedSource
from nas.data.preparation import Preparation
from nas.retrain.job import RetrainError


class Teacher(nn.Module):
    """A network whose images, normalised for the student, are normalised anew with its own mean and deviation."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, student: Preparation, mean: Iterable[float], std: Iterable[float]):
        super().__init__()
        self.network = network
        ours, theirs = (
            torch.tensor([list(values) for values in pair])[:, :, None, None]
            for pair in ((student.mean, student.std), (mean, std))
        )
        self.register_buffer("scale", ours[1] / theirs[1])
        self.register_buffer("offset", (ours[0] - theirs[0]) / theirs[1])

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] as the student gets them -> logits."""
        return self.network(images * self.scale + self.offset)


def load_teacher(name: str, source: OpenedSource, sides: Iterable[int], device: torch.device) -> Teacher:
    """A network of timm with its pretrained weights, or that of an exported folder, for images of `sides` pixels.

    Raises RetrainError for one that cannot be loaded, knows other classes, or does not take such images.
    """
    import timm

    where = f"retrain.teacher: {name!r}"
    try:
        network = timm.create_model(f"local-dir:{name}" if Path(name).is_dir() else name, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise RetrainError(f"{where} cannot be loaded: {error}") from None
    found = getattr(network, "num_classes", source.num_classes)
    if found != source.num_classes:
        raise RetrainError(f"{where} knows {found} classes, the images have {source.num_classes}")
    names = _label_names(Path(name))
    if names and names != list(source.class_names):
        raise RetrainError(f"{where} knows other classes, or in another order: {', '.join(names[:5])}, ...")
    described = getattr(network, "pretrained_cfg", None) or {}
    own = source.preparation
    mean, std = described.get("mean") or own.mean, described.get("std") or own.std
    if len(mean) != own.channels:
        raise RetrainError(f"{where} takes images of {len(mean)} channels, these have {own.channels}")
    teacher = Teacher(network, own, mean, std).to(device).eval().requires_grad_(False)
    for side in sorted(set(sides)):
        try:
            with torch.no_grad():
                teacher(torch.zeros(1, own.channels, side, side, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RetrainError(f"{where} takes no images of {side} pixels ({reason}); see retrain.resolution") from None
    return teacher


def _label_names(folder: Path) -> list[str]:
    """The classes that an exported folder names, in their order; empty where it names none."""
    try:
        return list(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("label_names") or [])
    except (OSError, ValueError, AttributeError):
        return []
