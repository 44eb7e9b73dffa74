"""Scenes with boxes for the training of detectors: made once, held in memory, in batches as the loop takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.config.sections import ProxyConfig
from nas.data.augment import shift_scenes
from nas.data.batches import Shard, epoch_order, num_steps, split_steps
from nas.data.datasets import DIGIT_NAMES
from nas.data.preparation import Preparation
from nas.data.randomness import generator
from nas.data.scattered import Scene, split_scattered_digits

NUM_SCENES = 1000
Boxes = dict[str, Tensor]
"""boxes float32 [K, 4] (left, top, right, bottom in pixels) and labels int64 [K], from 1, of one picture."""
SceneBatch = tuple[Tensor, list[Boxes]]


@dataclass(frozen=True, eq=False)
class SceneDataset:
    """Scenes to train and to validate with, mean and std of each channel in 0..1, and a name that only equal content
    has."""

    train: list[Scene]
    validation: list[Scene]
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


def load_scenes(config: ProxyConfig, seed: int) -> SceneDataset:
    """The scenes that `config` names, at its resolution, split by `seed`. Raises ValueError for another data set."""
    if config.dataset not in SCENE_DATASETS:
        raise ValueError(f"dataset = {config.dataset!r}: allowed for detection are {', '.join(SCENE_DATASETS)}")
    return SCENE_DATASETS[config.dataset](config, seed)


def load_scattered_digits(config: ProxyConfig, seed: int) -> SceneDataset:
    """See `nas.data.scattered`; digits for evaluation are in none of them."""
    count, side, fraction = config.num_scenes or NUM_SCENES, config.resolution, config.validation_fraction
    train, validation = split_scattered_digits(count, side, seed, fraction)
    std, mean = torch.std_mean(torch.stack([scene.image for scene in train]).double() / 255, correction=0)
    name = f"scattered_digits-{count}-{side}-{fraction}-{seed}"
    names = tuple(DIGIT_NAMES)
    return SceneDataset(train, validation, len(names), 1, names, (float(mean),), (float(std),), name)


SCENE_DATASETS: dict[str, Callable[[ProxyConfig, int], SceneDataset]] = {"scattered_digits": load_scattered_digits}


class SceneSource:
    """Scenes as `nas.data.batches.Source` has images: batches are (pictures float32 [N, C, S, S], normalised, a dict of
    boxes and labels for each)."""

    def __init__(self, dataset: SceneDataset, config: ProxyConfig, *, seed: int, device: torch.device | str):
        self.shard = Shard()
        self.num_classes, self.in_channels = dataset.num_classes, dataset.in_channels
        self.class_names, self.fingerprint = dataset.class_names, dataset.fingerprint
        self.num_train, self.num_validation = len(dataset.train), len(dataset.validation)
        self.steps_per_epoch = num_steps(self.num_train, config.batch_size)
        self.preparation = Preparation(dataset.mean, dataset.std)
        self._config, self._seed, self._device = config, seed, torch.device(device)
        self._train, self._validation = (_placed(part, self._device) for part in (dataset.train, dataset.validation))
        self._normalise = self.preparation.normaliser(self._device)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[SceneBatch]:
        """The batches of an epoch (from 0) from `start_step` on; equal arguments give equal batches."""
        steps = split_steps(epoch_order(self.num_train, self._seed, epoch), self.steps_per_epoch)
        for step in range(start_step, self.steps_per_epoch):
            images, found = _gathered(self._train, steps[step])
            if self._config.augment == "shift":
                random = generator(self._device, self._seed, "augment", epoch, step)
                images, boxes, kept = shift_scenes(images, [one["boxes"] for one in found], random)
                found = [
                    {"boxes": moved, "labels": one["labels"][stays]}
                    for one, moved, stays in zip(found, boxes, kept, strict=True)
                ]
            yield self._normalise(images), found

    def validation_batches(self) -> Iterator[SceneBatch]:
        for rows in torch.arange(self.num_validation).split(self._config.batch_size):
            images, found = _gathered(self._validation, rows)
            yield self._normalise(images), found


def _placed(scenes: list[Scene], device: torch.device) -> tuple[Tensor, list[Boxes]]:
    """Pictures uint8 [N, C, S, S] and what is on each, on a device."""
    found = [{"boxes": scene.boxes.to(device), "labels": scene.labels.to(device)} for scene in scenes]
    return torch.stack([scene.image for scene in scenes]).to(device), found


def _gathered(part: tuple[Tensor, list[Boxes]], rows: Tensor) -> SceneBatch:
    images, found = part
    return images[rows.to(images.device)], [found[row] for row in rows.tolist()]
