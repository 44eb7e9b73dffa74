"""TASKS: the loss of a batch and what an evaluation says, by the task of a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nas.networks.precision import autocast, to_memory_format
from nas.training.boxes import average_precision
from nas.training.process_group import ProcessGroup

Lock = Callable[[], AbstractContextManager]


class Scored(Protocol):
    """What an evaluation found."""

    @property
    def row(self) -> dict[str, float]:
        """The columns of an epoch's row."""
        ...


@dataclass(frozen=True)
class BoxScore:
    """COCO's average precision of boxes, 0 to 1: over IoU 0.5 to 0.95, and at 0.5."""

    box_ap: float
    box_ap50: float

    @property
    def row(self) -> dict[str, float]:
        return {"box_ap": self.box_ap, "box_ap50": self.box_ap50}


@dataclass(frozen=True)
class Task:
    """What the loop does otherwise than for a classifier."""

    loss: Callable[[nn.Module, Tensor, Any], Tensor]
    """(network, images [N, C, H, W], what the source has in the place of labels) -> the mean loss of the batch."""
    score: Callable[[nn.Module, Any, torch.dtype | None, Lock, ProcessGroup | None], Scored]
    """(network, source, autocast dtype, lock of the device, processes) -> what it says of the validation images."""


def box_loss(forward: nn.Module, images: Tensor, targets: Any) -> Tensor:
    """The sum of a detector's losses on a batch, see `nas.networks.dense.detectors`."""
    return forward(images, targets)


def measure_boxes(
    model: nn.Module,
    source: Any,
    dtype: torch.dtype | None,
    lock: Lock = nullcontext,
    group: ProcessGroup | None = None,
) -> BoxScore:
    """Evaluate a detector on the validation scenes, in eval mode; then in training mode. By one process."""
    model.eval()
    said, truths, side = [], [], 0
    with torch.inference_mode():
        for images, targets in source.validation_batches():
            side = images.shape[-1]
            with lock(), autocast(images.device, dtype):
                said += model(to_memory_format(images))
            truths += targets
    model.train()
    return BoxScore(**average_precision(said, truths, source.num_classes, side))


TASKS: dict[str, Task | None] = {"classification": None, "detection": Task(box_loss, measure_boxes)}
"""Name of `proxy.task` -> what the loop does otherwise; None: nothing."""
