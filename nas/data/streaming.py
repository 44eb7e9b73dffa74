"""Batches from image files and shards that are read as they are needed, by worker processes."""

from __future__ import annotations

import io
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from nas.base.process import die_with
from nas.base.seeds import keyed_seed
from nas.config.training import RetrainConfig, resolution
from nas.data.augment import CROP_AREA, CROP_RATIO, augment
from nas.data.batches import Batch, Shard, epoch_order, normaliser, num_steps, split_steps
from nas.data.datasets import RETRAIN_VALIDATION_FRACTION, Listing, list_parts, split_rows
from nas.data.image_cache import DataError, read_image, square
from nas.data.randomness import generator

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Key = tuple[int, int, int]
"""Epoch, row of the listing, number of the repetition: all that the augmentation of an image depends on."""
Transform = Callable[[Image.Image], Image.Image]
Read = tuple[Tensor, Tensor, list[Key], list[str]]


class StreamingSource:
    """Streams images through worker processes of a DataLoader.

    Batches depend on (seed, epoch, step) only, not on the number of workers, nor on where a training was resumed.

    `data_dir` has folders of classes or tar shards. Its val part is the evaluation set, else a tenth of the images by
    `seed`. Evaluation resizes the shorter side and cuts the centre out. Normalised with ImageNet's statistics. Raises
    DataError for a missing folder at once, for unreadable images when it is their turn: up to `config.max_bad_images`
    of them are left out of their batches, and listed in `bad_images`.
    """

    in_channels = 3

    def __init__(
        self,
        data_dir: Path,
        config: RetrainConfig,
        *,
        seed: int,
        device: torch.device | str,
        num_workers: int,
        shard: Shard | None = None,
        cache_dir: Path | None = None,
    ):
        training, evaluation = list_parts(Path(data_dir), cache_dir)
        if evaluation is None:
            kept, held = split_rows(torch.as_tensor(training.labels), RETRAIN_VALIDATION_FRACTION, seed)
            training, evaluation = training.take(kept.tolist()), training.take(held.tolist())
        self.num_classes, self.class_names = len(training.class_names), training.class_names
        self.num_train, self.num_validation = len(training), len(evaluation)
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        self.shard = shard or Shard()
        self.shard.check(self.num_train // self.steps_per_epoch)
        self.fingerprint = f"{keyed_seed(training.identity() + evaluation.identity()):x}"
        self.bad_images: set[str] = set()
        self._config, self._seed, self._device = config, seed, torch.device(device)
        self._normalise = normaliser(IMAGENET_MEAN, IMAGENET_STD, self._device)
        self._order = _EpochSteps(self.num_train, self.steps_per_epoch, seed, self.shard, config.repeats)
        options = {
            "num_workers": num_workers,
            "collate_fn": _as_is,
            "pin_memory": self._device.type == "cuda",
            "persistent_workers": num_workers > 0,
            "worker_init_fn": partial(die_with, os.getpid()),
            # forked from this process, whatever started it: they inherit its imports, and end with it
            "multiprocessing_context": "fork" if num_workers and sys.platform == "linux" else None,
        }
        mine = torch.arange(self.num_validation).tensor_split(self.shard.world)[self.shard.rank]
        batch_size = config.device_batch_size or -(-config.batch_size // self.shard.world)
        in_order = [[(0, row, 0) for row in batch.tolist()] for batch in mine.split(batch_size)]
        # the loader draws a seed per pass; a generator of its own keeps it from the one that dropout uses
        self._train = DataLoader(
            TrainingImages(training, config, seed), batch_sampler=self._order, generator=torch.Generator(), **options
        )
        self._validation = DataLoader(
            EvaluationImages(evaluation, config), batch_sampler=in_order, generator=torch.Generator(), **options
        )

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.start_step = epoch, start_step
        for pixels, labels, keys, problems in self._train:
            self._note(problems, not len(labels))
            images = self._normalise(pixels.to(self._device, non_blocking=True))
            if self._config.erasing:
                erase(images, self._config.erasing, self._seed, keys)
            yield images, labels.to(self._device, non_blocking=True)

    def validation_batches(self) -> Iterator[Batch]:
        for pixels, labels, _, problems in self._validation:
            if problems:
                raise DataError(problems[0])
            yield self._normalise(pixels.to(self._device, non_blocking=True)), labels.to(self._device)

    def _note(self, problems: list[str], is_empty: bool) -> None:
        self.bad_images.update(problems)
        limit = self._config.max_bad_images
        if len(self.bad_images) > limit:
            raise DataError(f"{problems[0]}; {len(self.bad_images)} unreadable, retrain.max_bad_images allows {limit}")
        if is_empty:
            raise DataError(f"{problems[0]}; no image of the step is left")


def erase(images: Tensor, probability: float, seed: int, keys: list[Key]) -> None:
    """Replace a rectangle of some images [N, C, H, W] by normal noise, in place; each is decided by its key alone.

    Paper: Random Erasing, https://arxiv.org/abs/1708.04896, with noise for every pixel.
    """
    height, width = images.shape[-2:]
    for image, key in zip(images, keys, strict=True):
        draws = Random(keyed_seed(seed, "erase", *key))
        if draws.random() > probability:
            continue
        for _ in range(10):
            area = draws.uniform(*ERASED_AREA) * height * width
            ratio = math.exp(draws.uniform(*map(math.log, ERASED_RATIO)))
            high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if high < height and wide < width:
                top, left = draws.randint(0, height - high), draws.randint(0, width - wide)
                noise = torch.empty((len(image), high, wide)).normal_(generator=generator("cpu", seed, "noise", *key))
                image[:, top : top + high, left : left + wide] = noise.to(image.device, non_blocking=True)
                break


class _EpochSteps(Sampler):
    """Yields, batch by batch from `start_step` of `epoch` on, this process's keys; lives in the main process."""

    def __init__(self, num_images: int, steps: int, seed: int, shard: Shard, repeats: int):
        self.epoch, self.start_step = 0, 0
        self._num_images, self._steps, self._seed, self._shard, self._repeats = num_images, steps, seed, shard, repeats

    def __iter__(self) -> Iterator[list[Key]]:
        order = epoch_order(self._num_images, self._seed, self.epoch, self._repeats)
        places = torch.arange(self._num_images)
        for step in split_steps(places, self._steps)[self.start_step :]:
            for part in self._shard.batches(step):
                yield [(self.epoch, int(order[place]), place % self._repeats) for place in part.tolist()]


class TrainingImages(Dataset):
    """Reads whole batches of keys in a worker: uint8 [N, 3, R, R], labels int64 [N], their keys, unreadable files."""

    def __init__(self, listing: Listing, config: RetrainConfig, seed: int):
        self._listing, self._config, self._seed = listing, config, seed
        self._transforms: dict[int, Transform] = {}
        if config.augment == "imagenet":
            self._transform(resolution(config, 0))  # here, so that workers inherit the slow import

    def __getitems__(self, keys: list[Key]) -> Read:
        images, kept, problems = [], [], []
        for key in keys:
            try:
                images.append(self._read(*key))
                kept.append(key)
            except DataError as error:  # as a value: an exception would arrive wrapped in the worker's traceback
                problems.append(str(error))
        labels = torch.tensor([int(self._listing.labels[row]) for _, row, _ in kept], dtype=torch.int64)
        return torch.stack(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8), labels, kept, problems

    def _read(self, epoch: int, row: int, repetition: int) -> Tensor:
        side = resolution(self._config, epoch)
        key = keyed_seed(self._seed, "augment", epoch, row, repetition)
        # cut out of the file's own pixels: at the final resolution a small crop would be blurred
        cuts = self._config.augment in ("imagenet", "crop_flip")
        image = _read(self._listing, row, 2 * side if cuts else side)
        if self._config.augment == "imagenet":
            random.seed(key)  # timm draws from all three
            np.random.seed(key % 2**32)
            torch.default_generator.manual_seed(key)
            return _pixels(self._transform(side)(image))
        if self._config.augment == "crop_flip":
            return _pixels(_random_crop(image, side, Random(key)))
        return augment(_pixels(square(image, side))[None], self._config.augment, generator("cpu", key))[0]

    def _transform(self, side: int) -> Transform:
        if side not in self._transforms:
            from timm.data.transforms_factory import transforms_imagenet_train
            from torchvision.transforms import Compose

            config = self._config
            stages: Any = transforms_imagenet_train(
                side,
                scale=(config.crop_area[0], config.crop_area[1]),
                color_jitter=config.color_jitter or None,  # pyright: ignore[reportArgumentType]
                auto_augment=config.auto_augment,
                interpolation=config.interpolation,
                separate=True,
                use_prefetcher=True,
            )
            for policy in stages[1].transforms:
                for op in getattr(policy, "ops", None) or [op for ops in getattr(policy, "policy", ()) for op in ops]:
                    if op.name.startswith("Posterize"):
                        op.aug_fn = _posterize
            self._transforms[side] = Compose(stages[:2])
        return self._transforms[side]


class EvaluationImages(Dataset):
    """Reads whole batches for evaluation: the centre square, `evaluation_crop` of the shorter side."""

    def __init__(self, listing: Listing, config: RetrainConfig):
        self._listing = listing
        self._side = config.evaluation_resolution or config.resolution
        self._resized_side = round(self._side / config.evaluation_crop)
        self._resampling = RESAMPLING["bicubic" if config.interpolation == "bicubic" else "bilinear"]

    def __getitems__(self, keys: list[Key]) -> Read:
        labels = torch.tensor([int(self._listing.labels[row]) for _, row, _ in keys])
        try:
            return torch.stack([self._read(row) for _, row, _ in keys]), labels, keys, []
        except DataError as error:
            return torch.empty(0), labels, [], [str(error)]

    def _read(self, row: int) -> Tensor:
        image = _read(self._listing, row, self._resized_side)
        return _pixels(square(image, self._side, self._resized_side, self._resampling))


def _read(listing: Listing, row: int, shorter_side: int) -> Image.Image:
    try:
        content = listing.open(row)
    except OSError as error:
        raise DataError(f"{listing.name(row)}: unreadable image ({error})") from None
    return read_image(listing.name(row), shorter_side, content if isinstance(content, io.BytesIO) else None)


def _random_crop(image: Image.Image, side: int, draws: Random) -> Image.Image:
    width, height = image.size
    area = draws.uniform(*CROP_AREA) * width * height
    ratio = math.exp(draws.uniform(*map(math.log, CROP_RATIO)))
    wide, high = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = draws.uniform(0, width - wide), draws.uniform(0, height - high)
    box = (left, top, left + wide, top + high)
    cut = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.random() < 0.5 else cut


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits. timm asks for none of them at the highest magnitude: black, which Pillow now refuses."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def _pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W]"""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def _as_is(batch: Read) -> Read:
    return batch
