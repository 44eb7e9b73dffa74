"""Scattered digits: scenes of several handwritten digits over clutter, with boxes, masks and classes.

The detection of real digits in pictures that are made from a seed, so that everything runs without a download. Digits
that scenes for evaluation show are in no scene for training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.data.cluttered import FRAGMENT, FRAGMENTS_PER_PIXEL, STROKE_SIDE, paste, resized
from nas.data.datasets import read_digits

SIDES = range(14, 33)
"""Sides of a digit, in pixels."""
MOST_DIGITS = 4
TRIES = 20
VISIBLE = 32
"""From this brightness on a pixel belongs to the digit."""
SMALLEST = 2 * max(SIDES)
NUM_CLASSES = 10


@dataclass(frozen=True)
class Scene:
    """A picture uint8 [1, S, S] and its K digits, 1 to `MOST_DIGITS`.

    Boxes are float32 [K, 4] (left, top, right, bottom, in pixels), labels int64 [K] (1 to 10 for the digits 0 to 9, as
    torchvision counts), masks uint8 [K, S, S].
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor

    def target(self) -> dict[str, Tensor]:
        """As torchvision's detectors take it."""
        return {"boxes": self.boxes, "labels": self.labels, "masks": self.masks}


def scattered_digits(count: int, side: int, seed: int, evaluation: bool = False) -> list[Scene]:
    """So many scenes of `side` pixels; equal for equal arguments. Raises ValueError below `SMALLEST` pixels.

    Digits keep apart from each other: no box covers another. Every fifth handwritten digit is for evaluation.
    """
    pixels, classes = read_digits()
    chosen = _is_for_evaluation(len(pixels)) == evaluation
    return _scenes(pixels[chosen], classes[chosen], count, side, (seed, evaluation))


def split_scattered_digits(count: int, side: int, seed: int, fraction: float) -> tuple[list[Scene], list[Scene]]:
    """So many scenes in all to train and to validate with, of which `fraction` validate; neither show digits that are
    for evaluation, and no digit is in both. Equal for equal arguments. Raises ValueError below `SMALLEST` pixels."""
    pixels, classes = read_digits()
    left = np.random.RandomState((seed, 2)).permutation(np.flatnonzero(~_is_for_evaluation(len(pixels))))
    held = round(fraction * len(left))
    num_held = max(1, round(fraction * count))
    parts = ((left[held:], count - num_held, 3), (left[:held], num_held, 4))
    train, validation = (_scenes(pixels[at], classes[at], size, side, (seed, part)) for at, size, part in parts)
    return train, validation


def _is_for_evaluation(count: int) -> np.ndarray:
    return np.arange(count) % 5 == 4


def _scenes(pixels: np.ndarray, classes: np.ndarray, count: int, side: int, seed: tuple[int, int]) -> list[Scene]:
    if side < SMALLEST:
        raise ValueError(f"side = {side}: allowed is {SMALLEST} or more for scattered digits; 96 is usual")
    by_side, strokes = {size: resized(pixels, size) for size in SIDES}, resized(pixels, STROKE_SIDE)
    draw = np.random.RandomState(seed)
    return [_scene(by_side, strokes, classes, side, draw) for _ in range(count)]


def _scene(
    by_side: dict[int, np.ndarray], strokes: np.ndarray, classes: np.ndarray, side: int, draw: np.random.RandomState
) -> Scene:
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(round(FRAGMENTS_PER_PIXEL * side**2 / 2)):
        top, left = draw.randint(0, STROKE_SIDE - FRAGMENT + 1, 2)
        paste(canvas, strokes[draw.randint(len(strokes)), top : top + FRAGMENT, left : left + FRAGMENT], draw)
    boxes, labels, masks = [], [], []
    for _ in range(draw.randint(1, MOST_DIGITS + 1)):
        for _ in range(TRIES):
            size, which = SIDES[draw.randint(len(SIDES))], draw.randint(len(classes))
            top, left = draw.randint(0, side - size + 1, 2)
            if all(left + size <= a or c <= left or top + size <= b or d <= top for a, b, c, d in boxes):
                break
        else:
            continue  # no room left
        digit = by_side[size][which]
        mask = np.zeros((side, side), np.uint8)
        mask[top : top + size, left : left + size] = digit >= VISIBLE
        window = canvas[top : top + size, left : left + size]
        np.maximum(window, digit, out=window)
        boxes.append((left, top, left + size, top + size))
        labels.append(int(classes[which]) + 1)
        masks.append(mask)
    tight = [_tight(mask) for mask in masks]
    return Scene(
        torch.from_numpy(canvas)[None],
        torch.tensor(tight, dtype=torch.float32),
        torch.tensor(labels),
        torch.from_numpy(np.stack(masks)),
    )


def _tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is set; right and bottom are the first pixels outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
