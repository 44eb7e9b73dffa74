"""Batches of training: what the loop asks of a source, the order of images, and images held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nas.config.sections import TrainConfig
from nas.data.augment import augment
from nas.data.datasets import ImageDataset, Images
from nas.data.images.reading import DataError
from nas.data.preparation import Preparation
from nas.data.randomness import generator

Batch = tuple[Tensor, Any]
"""Images and what is known of each: a class, for all others see `nas.data.scenes`."""


@dataclass(frozen=True)
class Shard:
    """What process `rank` of `world` gets of each step's images, in `accumulation_steps` batches."""

    rank: int = 0
    world: int = 1
    accumulation_steps: int = 1

    def batches(self, rows: Tensor) -> list[Tensor]:
        """The part of a step's rows that is this process's, batch by batch; sizes differ by one at most."""
        return list(rows.tensor_split(self.world)[self.rank].tensor_split(self.accumulation_steps))

    def check(self, smallest_step: int) -> None:
        """Raise DataError where a step has fewer images than processes times accumulation steps."""
        if smallest_step < self.world * self.accumulation_steps:
            raise DataError(
                f"batch_size: a step of {smallest_step} images is too small for {self.world} processes that take it in "
                f"{self.accumulation_steps} parts each"
            )


class Source(Protocol):
    """Batches are (images float32 [N, C, H, W], normalised, labels int64 [N]) on the device of the training."""

    num_classes: int
    class_names: tuple[str, ...]
    in_channels: int
    num_train: int
    """Images of an epoch, over all processes."""
    num_validation: int
    """Images of an evaluation, over all processes."""
    steps_per_epoch: int
    fingerprint: str
    shard: Shard

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from `start_step` on; equal arguments give equal batches.

        Each step has `shard.accumulation_steps` of them.
        """
        ...

    def validation_batches(self) -> Iterator[Batch]:
        """Those of this process; over all processes, every image once."""
        ...


class OpenedSource(Source, Protocol):
    """A source with what a user is told of it, and what whoever uses the network later has to know."""

    preparation: Preparation
    """How an image is brought to the network for evaluation."""
    notes: tuple[str, ...]
    evaluation_fingerprint: str
    """As `fingerprint`, which need not depend on the images that evaluate."""

    def check(self) -> None:
        """Read the validation images once, so that unreadable ones are found before the training."""
        ...


class MemorySource:
    """Images in memory, moved to the device once where they fit, augmented there; the whole image is evaluated."""

    notes = ()
    evaluation_fingerprint = ""  # they are in `fingerprint`

    def __init__(
        self,
        dataset: ImageDataset,
        config: TrainConfig,
        *,
        seed: int,
        device: torch.device | str,
        shard: Shard | None = None,
    ):
        self.shard = shard or Shard()
        self.num_classes, self.in_channels = dataset.num_classes, dataset.in_channels
        self.num_train, self.fingerprint = len(dataset.train), dataset.fingerprint
        self.class_names, self.num_validation = dataset.class_names, len(dataset.validation)
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        self.shard.check(self.num_train // self.steps_per_epoch)
        self._config, self._seed, self._device = config, seed, torch.device(device)
        self._train, self._validation = (_placed(part, self._device) for part in (dataset.train, dataset.validation))
        self.preparation = Preparation(dataset.mean, dataset.std)
        self._normalise = self.preparation.normaliser(self._device)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        steps = split_steps(epoch_order(self.num_train, self._seed, epoch), self.steps_per_epoch)[start_step:]
        rows = [part for step in steps for part in self.shard.batches(step)]
        names = [
            (step,) if self.shard == Shard() else (step, self.shard.rank, self.shard.world, part)
            for step in range(start_step, self.steps_per_epoch)
            for part in range(self.shard.accumulation_steps)
        ]
        for name, (images, labels) in zip(names, _fetch(self._train, rows, self._device), strict=True):
            random = generator(self._device, self._seed, "augment", epoch, *name)
            yield self._normalise(augment(images, self._config.augment, random)), labels

    def validation_batches(self) -> Iterator[Batch]:
        rows = torch.arange(len(self._validation)).tensor_split(self.shard.world)[self.shard.rank]
        for images, labels in _fetch(self._validation, rows.split(self._config.batch_size), self._device):
            yield self._normalise(images), labels

    def check(self) -> None:
        """They are decoded already."""


def num_steps(num_images: int, batch_size: int) -> int:
    """Steps of an epoch: every image is used once."""
    return -(-num_images // batch_size)


def split_steps(order: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Batches whose sizes differ by one at most: none is much smaller, which would unsettle batch norms."""
    return order.tensor_split(steps)


def epoch_order(num_images: int, seed: int, epoch: int, repeats: int = 1) -> Tensor:
    """The order of the images int64 [N] in an epoch; with `repeats`, 1/repeats of them, each that often in a row."""
    order = torch.randperm(num_images, generator=generator("cpu", seed, "order", epoch))
    return order if repeats == 1 else order.repeat_interleave(repeats)[:num_images]


def step_size(num_images: int, steps: int, step: int) -> int:
    """How many images `split_steps` gives to a step."""
    return num_images // steps + (step < num_images % steps)


def _fetch(part: Images, batches: Sequence[Tensor], device: torch.device) -> Iterator[Batch]:
    """Gather uint8 images and labels where they lie; from the host to a GPU, one batch ahead in a thread."""
    if part.pixels.device.type == device.type:
        # to the images in one piece: a copy per batch would wait for the GPU to finish the step before
        placed = torch.cat([torch.arange(0), *batches]).to(part.labels.device).split([len(rows) for rows in batches])
        return (_gather(part, rows) for rows in placed)
    gathered = ahead(lambda rows: tuple(tensor.pin_memory() for tensor in _gather(part, rows)), batches)
    return ((images.to(device, non_blocking=True), labels.to(device, non_blocking=True)) for images, labels in gathered)


def _gather(part: Images, rows: Tensor) -> Batch:
    return part.pixels[part.index[rows]], part.labels[rows]


def ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results of `function` for each item, in order; a thread computes the next while the last is used."""
    with ThreadPoolExecutor(1) as thread:
        pending: list[Future] = []
        for item in items:
            pending.append(thread.submit(function, item))
            if len(pending) == 2:
                yield pending.pop(0).result()
        yield from (future.result() for future in pending)


def _placed(part: Images, device: torch.device) -> Images:
    """The part with its own copy of its images on a GPU, where they take a quarter of the free memory at most."""
    if device.type == "cpu":
        return part
    size = len(part) * part.pixels[0].numel()
    if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] / 4:
        return part
    rows = torch.arange(len(part), device=device)
    return Images(part.pixels[part.index].to(device), rows, part.labels.to(device))
