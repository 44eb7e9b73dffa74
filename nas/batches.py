"""Batches of training: what the loop asks of a source, the order of images, and images held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from nas.augment import augment
from nas.config import TrainConfig
from nas.data import ImageDataset, Images
from nas.seeds import generator

Batch = tuple[Tensor, Tensor]


class Source(Protocol):
    """Batches are (images float32 [N, C, H, W], normalised, labels int64 [N]) on the device of the training."""

    num_classes: int
    in_channels: int
    num_train: int
    steps_per_epoch: int
    fingerprint: str

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0) from `start_step` on; equal arguments give equal batches."""
        ...

    def validation_batches(self) -> Iterator[Batch]: ...


class MemorySource:
    """Images in memory, moved to the device once where they fit, augmented there."""

    def __init__(self, dataset: ImageDataset, config: TrainConfig, *, seed: int, device: torch.device | str):
        self.num_classes, self.in_channels = dataset.num_classes, dataset.in_channels
        self.num_train, self.fingerprint = len(dataset.train), dataset.fingerprint
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        self._config, self._seed, self._device = config, seed, torch.device(device)
        self._train, self._validation = (_placed(part, self._device) for part in (dataset.train, dataset.validation))
        self._normalise = normaliser(dataset.mean, dataset.std, self._device)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        order = epoch_order(self.num_train, self._seed, epoch)
        batches = _fetch(self._train, order, self.steps_per_epoch, start_step, self._device)
        for step, (images, labels) in enumerate(batches, start_step):
            random = generator(self._device, self._seed, "augment", epoch, step)
            yield self._normalise(augment(images, self._config.augment, random)), labels

    def validation_batches(self) -> Iterator[Batch]:
        count = len(self._validation)
        steps = num_steps(count, self._config.batch_size)
        for images, labels in _fetch(self._validation, torch.arange(count), steps, 0, self._device):
            yield self._normalise(images), labels


def num_steps(num_images: int, batch_size: int) -> int:
    """Steps of an epoch: every image is used once."""
    return -(-num_images // batch_size)


def split_steps(order: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Batches whose sizes differ by one at most: none is much smaller, which would unsettle batch norms."""
    return order.tensor_split(steps)


def epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    """The permutation of the images int64 [N] in an epoch."""
    return torch.randperm(num_images, generator=generator("cpu", seed, "order", epoch))


def normaliser(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from images in 0..255 [N, C, H, W] to float32 with mean 0 and deviation 1 of each channel."""
    scale = 1 / (255 * torch.tensor(std, device=device)[:, None, None])
    offset = torch.tensor(mean, device=device)[:, None, None] * 255 * scale
    return lambda images: images.float() * scale - offset


def _fetch(part: Images, order: Tensor, steps: int, start_step: int, device: torch.device) -> Iterator[Batch]:
    """Gather uint8 images and labels where they lie; from the host to a GPU, one batch ahead in a thread."""
    # to the images in one piece: a copy per batch would wait for the GPU to finish the step before
    batches = split_steps(order.to(part.labels.device), steps)[start_step:]
    if part.pixels.device.type == device.type:
        return (_gather(part, rows) for rows in batches)
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
