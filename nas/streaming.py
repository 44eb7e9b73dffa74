"""Batches from image files that are read as they are needed, by worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nas.augment import CROP_AREA, CROP_RATIO, augment
from nas.batches import Batch, epoch_order, normaliser, num_steps, split_steps
from nas.config import TrainConfig
from nas.data import RETRAIN_VALIDATION_FRACTION, list_parts, split_rows
from nas.image_cache import DataError, FolderListing, read_image, square
from nas.seeds import generator, keyed_seed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVALUATION_CROP = 0.875


class StreamingSource:
    """Image files read and augmented by worker processes; their number does not change the batches.

    `data_dir`/val is the evaluation set where there is one beside `train`, else a tenth of the images by `seed`.
    Evaluation resizes the shorter side to resolution / 0.875 and cuts the centre out. Normalised with ImageNet's
    statistics. Raises DataError for a missing folder at once, for an unreadable image when it is its turn.
    """

    in_channels = 3

    def __init__(self, data_dir: Path, config: TrainConfig, *, seed: int, device: torch.device | str, num_workers: int):
        training, evaluation = list_parts(Path(data_dir))
        if evaluation is None:
            kept, held = split_rows(torch.tensor(training.labels), RETRAIN_VALIDATION_FRACTION, seed)
            training, evaluation = training.take(kept.tolist()), training.take(held.tolist())
        self.num_classes, self.class_names = len(training.class_names), training.class_names
        self.num_train = len(training.paths)
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        content = [training.paths, training.labels, evaluation.paths, evaluation.labels]
        self.fingerprint = f"{keyed_seed(str(content)):x}"
        self._seed, self._device = seed, torch.device(device)
        self._normalise = normaliser(IMAGENET_MEAN, IMAGENET_STD, self._device)
        self._order = _EpochSteps(self.num_train, self.steps_per_epoch, seed)
        options = {
            "num_workers": num_workers,
            "collate_fn": _as_is,
            "pin_memory": self._device.type == "cuda",
            "persistent_workers": num_workers > 0,
        }
        train_files = _ImageFiles(training, config.resolution, config.augment, seed)
        evaluation_files = _ImageFiles(evaluation, config.resolution, None, seed)
        rows = torch.arange(len(evaluation.paths)).split(config.batch_size)
        in_order = [[(0, row) for row in batch.tolist()] for batch in rows]
        # the loader draws a seed per pass; a generator of its own keeps it from the one that dropout uses
        self._train = DataLoader(train_files, batch_sampler=self._order, generator=torch.Generator(), **options)
        self._validation = DataLoader(evaluation_files, batch_sampler=in_order, generator=torch.Generator(), **options)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.start_step = epoch, start_step
        return self._delivered(self._train)

    def validation_batches(self) -> Iterator[Batch]:
        return self._delivered(self._validation)

    def _delivered(self, loader: DataLoader) -> Iterator[Batch]:
        for images, labels in loader:
            if isinstance(images, str):
                raise DataError(images)
            on_device = images.to(self._device, non_blocking=True)
            yield self._normalise(on_device), labels.to(self._device, non_blocking=True)


class _EpochSteps(Sampler):
    """Yields for each step of `epoch`, from `start_step` on, its (epoch, row) pairs; lives in the main process."""

    def __init__(self, num_images: int, steps: int, seed: int):
        self.epoch, self.start_step = 0, 0
        self._num_images, self._steps, self._seed = num_images, steps, seed

    def __iter__(self):
        order = epoch_order(self._num_images, self._seed, self.epoch)
        for rows in split_steps(order, self._steps)[self.start_step :]:
            yield [(self.epoch, row) for row in rows.tolist()]


class _ImageFiles(Dataset):
    """Reads whole batches of (epoch, row) pairs in a worker: images uint8 [N, 3, R, R], or the message of an error."""

    def __init__(self, listing: FolderListing, resolution: int, kind: str | None, seed: int):
        self._listing, self._resolution, self._kind, self._seed = listing, resolution, kind, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor | str, Tensor]:
        labels = torch.tensor([self._listing.labels[row] for _, row in keys])
        try:
            return torch.stack([self._read(epoch, row) for epoch, row in keys]), labels
        except DataError as error:  # as a value: an exception would arrive wrapped in the worker's traceback
            return str(error), labels

    def _read(self, epoch: int, row: int) -> Tensor:
        path, side = self._listing.root / self._listing.paths[row], self._resolution
        if self._kind is None:
            resized_side = round(side / EVALUATION_CROP)
            return _pixels(square(read_image(path, resized_side), side, resized_side))
        key = self._seed, "augment", epoch, row
        if self._kind == "crop_flip":
            # cut out of the file's own pixels: at the final resolution a small crop would be blurred
            return _pixels(_random_crop(read_image(path, 2 * side), side, Random(keyed_seed(*key))))
        return augment(_pixels(square(read_image(path, side), side))[None], self._kind, generator("cpu", *key))[0]


def _random_crop(image: Image.Image, resolution: int, random: Random) -> Image.Image:
    width, height = image.size
    area = random.uniform(*CROP_AREA) * width * height
    ratio = math.exp(random.uniform(*map(math.log, CROP_RATIO)))
    wide, high = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
    box = (left, top, left + wide, top + high)
    cut = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cut


def _pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W]"""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def _as_is(batch: tuple[Tensor | str, Tensor]) -> tuple[Tensor | str, Tensor]:
    return batch
