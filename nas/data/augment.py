"""Augmentation of a batch on its device: shifts, flips and random resized crops, each image on its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

CROP_AREA = (0.25, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


def augment(images: Tensor, kind: str, random: Generator) -> Tensor:
    """Return augmented images [N, C, H, W], uint8 as given or float32 in the same 0..255; `kind` is in AUGMENTATIONS.

    All draws come from `random`, which lives on the device of the images.
    """
    if kind not in AUGMENTATIONS:
        raise ValueError(f"augment = {kind!r}: allowed are {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[kind](images, random)


def shift(images: Tensor, random: Generator, *, flip: bool = False) -> Tensor:
    """Move by up to 1/8 of the map (at least one pixel) in both directions, black coming in; mirror half of them."""
    count, _, height, width = images.shape
    reach = max(1, height // 8), max(1, width // 8)
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    rows = _starts(2 * reach[0], count, random) + torch.arange(height, device=images.device)
    columns = _starts(2 * reach[1], count, random) + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(count, 1, generator=random, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def shift_flip(images: Tensor, random: Generator) -> Tensor:
    return shift(images, random, flip=True)


def crop_flip(images: Tensor, random: Generator) -> Tensor:
    """Cut a rectangle of random area and aspect, scale it (bilinear) to the whole map, mirror half of them."""
    draws = torch.rand(5, len(images), generator=random, device=images.device)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * draws[0]
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = torch.exp(low + (high - low) * draws[1])
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = images.new_zeros(len(images), 2, 3, dtype=torch.float32)
    theta[:, 0, 0] = torch.where(draws[4] < 0.5, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * (2 * draws[2] - 1)
    theta[:, 1, 2] = (1 - height) * (2 * draws[3] - 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "none": lambda images, random: images,
    "shift": shift,
    "shift_flip": shift_flip,
    "crop_flip": crop_flip,
}


def _starts(highest: int, count: int, random: Generator) -> Tensor:
    return torch.randint(highest + 1, (count, 1), generator=random, device=random.device)
