"""Batches from image files and shards that are read as they are needed, by worker processes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from nas.base.seeds import keyed_seed
from nas.config.training import RetrainConfig, resolution
from nas.data.augment import CROP_AREA, CROP_RATIO, augment
from nas.data.batches import Batch, Shard, epoch_order, num_steps, split_steps
from nas.data.datasets import RETRAIN_VALIDATION_FRACTION, split_rows
from nas.data.evaluation import BadImages, EvaluationSource, Read, read_row
from nas.data.images.parts import Asked, Listing, list_parts
from nas.data.images.reading import DataError, centre_square
from nas.data.loading import loader, workers_that_fit
from nas.data.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation, to_tensor
from nas.data.randomness import generator

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)

Key = tuple[int, int, int]
"""Epoch, row of the listing, number of the repetition: all that the augmentation of an image depends on."""
Transform = Callable[[Image.Image], Image.Image]


class StreamingSource:
    """Streams images through worker processes of a DataLoader.

    Batches depend on (seed, epoch, step) only, not on the number of workers, nor on where a training was resumed.

    Which images train and which evaluate, `nas.data.images.parts` says; where none evaluate, it is a tenth of the
    others by `seed`. Normalised with ImageNet's statistics. `notes` has what a user should know. Raises DataError
    for a missing folder at once, for unreadable images when it is their turn: up to `config.max_bad_images` of them
    are left out of their batches, and listed in `bad_images`.
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
        asked = Asked(config.train_split, config.evaluation_split, config.class_map)
        found = list_parts(Path(data_dir), cache_dir, asked)
        training, evaluation, notes = found.training, found.evaluation, [*found.notes]
        if evaluation is None:
            kept, held = split_rows(torch.as_tensor(training.labels), RETRAIN_VALIDATION_FRACTION, seed)
            training, evaluation = training.take(kept.tolist()), training.take(held.tolist())
            notes[-1] += f": a tenth of its images is held out ({len(evaluation):,} images)"
        self.num_classes, self.class_names = len(training.class_names), training.class_names
        self.num_train, self.num_validation = len(training), len(evaluation)
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        self.shard = shard or Shard()
        self.shard.check(self.num_train // self.steps_per_epoch)
        self.fingerprint = f"{keyed_seed(training.identity()):x}"
        self.evaluation_fingerprint = f"{keyed_seed(evaluation.identity()):x}"
        self.bad_images = BadImages(config.max_bad_images)
        self.preparation = preparation(config)
        self._config, self._seed, self._device = config, seed, torch.device(device)
        self._normalise = self.preparation.normaliser(self._device)
        self._order = _EpochSteps(self.num_train, self.steps_per_epoch, seed, self.shard, config.repeats)
        at_once = config.device_batch_size or -(-config.batch_size // self.shard.world)
        side = config.evaluation_resolution or config.resolution
        largest = max(side, *(resolution(config, epoch) for epoch in range(config.num_epochs)))
        num_workers, said = workers_that_fit(
            num_workers, min(at_once, self.num_train) * self.in_channels * largest**2, self.shard.world
        )
        self.notes = (*notes, *said)
        self._train = loader(
            TrainingImages(training, config, seed), self._order, self._device, num_workers, config.loader_timeout
        )
        self._evaluation = EvaluationSource(
            evaluation,
            self.preparation,
            side,
            batch_size=at_once,
            device=self._device,
            num_workers=num_workers,
            timeout=config.loader_timeout,
            shard=self.shard,
            bad_images=self.bad_images,
        )

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        self._order.epoch, self._order.start_step = epoch, start_step
        for pixels, labels, keys, problems in self._train:
            if problems:
                self.bad_images.note(problems)
                if not len(labels):
                    raise DataError(f"{problems[0]}; no image of the step is left")
            images = self._normalise(pixels.to(self._device, non_blocking=True))
            if self._config.erasing:
                erase(images, self._config.erasing, self._seed, keys)
            yield images, labels.to(self._device, non_blocking=True)

    def validation_batches(self) -> Iterator[Batch]:
        return self._evaluation.validation_batches()

    def check(self) -> None:
        self._evaluation.check()


def preparation(config: RetrainConfig) -> Preparation:
    """How streamed images are brought to the network for evaluation."""
    interpolation = "bicubic" if config.interpolation == "bicubic" else "bilinear"
    return Preparation(IMAGENET_MEAN, IMAGENET_STD, config.evaluation_crop, interpolation)


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
        positions = torch.arange(self._num_images)
        for step in split_steps(positions, self._steps)[self.start_step :]:
            for part in self._shard.batches(step):
                yield [(self.epoch, int(order[position]), position % self._repeats) for position in part.tolist()]


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
        image = read_row(self._listing, row, 2 * side if cuts else side)
        if self._config.augment == "imagenet":
            random.seed(key)  # timm draws from all three
            np.random.seed(key % 2**32)
            torch.default_generator.manual_seed(key)
            return to_tensor(self._transform(side)(image))
        if self._config.augment == "crop_flip":
            return to_tensor(_random_crop(image, side, Random(key)))
        return augment(to_tensor(centre_square(image, side))[None], self._config.augment, generator("cpu", key))[0]

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
