"""Augmentation of a batch on its device: shifts, flips and random resized crops, each image on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
    rows = _starts(2 * reach[0], count, random) + torch.arange(height, device=images.device)
    columns = _starts(2 * reach[1], count, random) + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(count, 1, generator=random, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return _cut(images, reach, rows, columns)


def shift_scenes(
    images: Tensor, boxes: Sequence[Tensor], random: Generator
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """`shift` of pictures with their boxes [K, 4] (left, top, right, bottom): moved and cut to the map, without those
    of which less than half is left; and which are kept, bool [K]."""
    count, _, height, width = images.shape
    reach = max(1, height // 8), max(1, width // 8)
    top, left = _starts(2 * reach[0], count, random), _starts(2 * reach[1], count, random)
    rows, columns = (start + torch.arange(size, device=images.device) for start, size in ((top, height), (left, width)))
    found, kept = [], []
    most = torch.tensor([width, height, width, height], device=images.device)
    moves = torch.cat([reach[1] - left, reach[0] - top], dim=1).repeat(1, 2)
    for each, move in zip(boxes, moves, strict=True):
        cut = (each + move).clamp(min=0).minimum(most)
        stays = _areas(cut) >= 0.5 * _areas(each)
        found.append(cut[stays])
        kept.append(stays)
    return _cut(images, reach, rows, columns), found, kept


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


def _cut(images: Tensor, reach: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """Of each image, with a black border of `reach`, these rows [N, H] and columns [N, W]."""
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def _starts(highest: int, count: int, random: Generator) -> Tensor:
    return torch.randint(highest + 1, (count, 1), generator=random, device=random.device)
