"""Accuracy and time of several forms of a network on the same images: what a smaller or faster one costs and gains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.data.batches import Batch

CALIBRATION_IMAGES = 128
Form = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] on the CPU -> logits [N, classes]."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Images [N, C, H, W] with their labels [N], and those that set the ranges of integers and are not scored."""

    calibration: Tensor
    images: Tensor
    labels: Tensor

    @staticmethod
    def of(batches: Iterable[Batch], option: str) -> Sample:
        """128 images spread over all set ranges. Raises UserError that names the option for too few images."""
        images, labels = (torch.cat([part.cpu() for part in parts]) for parts in zip(*batches, strict=True))
        if len(images) < 2 * CALIBRATION_IMAGES:
            raise UserError(f"{option}: needs {2 * CALIBRATION_IMAGES} images or more, there are {len(images)}")
        chosen = torch.zeros(len(images), dtype=torch.bool)
        chosen[torch.linspace(0, len(images) - 1, CALIBRATION_IMAGES, dtype=torch.float64).long()] = True
        return Sample(images[chosen], images[~chosen], labels[~chosen])

    def figures(self, form: Form, batch_size: int = 32) -> dict[str, float]:
        """Accuracy, and milliseconds per image of batches of 32, without the first."""
        form(self.images[:batch_size])
        right, began = 0, time.perf_counter()
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            right += int((form(images).argmax(1) == labels).sum())
        num_images = len(self.images)
        return {"top1": right / num_images, "ms_per_image": 1000 * (time.perf_counter() - began) / num_images}

    def write(self, path: Path, forms: Mapping[str, Form]) -> dict[str, Any]:
        """Measure the forms and write what was found: calibration_images, num_images, and top1 and ms_per_image of each
        form by its name."""
        with torch.inference_mode():
            found = {name: self.figures(form) for name, form in forms.items()}
        described = {"calibration_images": len(self.calibration), "num_images": len(self.images), **found}
        write_atomically(path, json.dumps(described, indent=1))
        return described
