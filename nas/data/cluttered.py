"""Cluttered digits: the handwritten digits scattered over larger maps, between fragments of other digits.

Each map shows one whole digit at a random size and position, and pieces of others, about as large as a stroke is long.
What digit it is shows only over a distance, so that operators of different reach differ. The idea is the "cluttered
translated MNIST" of Mnih et al., Recurrent Models of Visual Attention, https://arxiv.org/abs/1406.6247.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

SIDES = range(12, 21)
"""Sides of a whole digit, in pixels."""
STROKE_SIDE = 16
"""Side of the digits that fragments are cut from."""
FRAGMENT = 5
"""Side of a fragment."""
FRAGMENTS_PER_PIXEL = 6 / 32**2
SMALLEST = max(SIDES) + 4


def scatter(digits: np.ndarray, target: np.ndarray, copies: int, seed: int) -> None:
    """Fill `target` uint8 [N * copies, 1, S, S] with maps of `digits` uint8 [N, 8, 8], `copies` of each in a row.

    Fragments come from the same digits. Equal for equal arguments: RandomState's numbers do not change with numpy.
    """
    draw = np.random.RandomState(seed)
    side = target.shape[-1]
    scaled = {size: resized(digits, size) for size in SIDES}
    strokes = resized(digits, STROKE_SIDE)
    num_fragments = round(FRAGMENTS_PER_PIXEL * side**2)
    for row, canvas in enumerate(target[:, 0]):
        canvas[...] = 0
        for _ in range(num_fragments):
            top, left = draw.randint(0, STROKE_SIDE - FRAGMENT + 1, 2)
            piece = strokes[draw.randint(len(digits)), top : top + FRAGMENT, left : left + FRAGMENT]
            paste(canvas, piece, draw)
        paste(canvas, scaled[SIDES[draw.randint(len(SIDES))]][row // copies], draw)


def paste(canvas: np.ndarray, piece: np.ndarray, draw: np.random.RandomState) -> None:
    """Put a piece at a random position, the brighter value where it meets something."""
    side = len(piece)
    top, left = draw.randint(0, len(canvas) - side + 1, 2)
    window = canvas[top : top + side, left : left + side]
    np.maximum(window, piece, out=window)


def resized(digits: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, 8, 8] -> [N, side, side], bilinear."""
    pixels = torch.from_numpy(digits[:, None].astype(np.float32))
    resized = functional.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
    return resized[:, 0].round().to(torch.uint8).numpy()
