"""Write a folder of images to try opnas on. Usage: python scripts/example_images.py FOLDER

scikit-learn's handwritten digits at random sizes and places between fragments of others, 32x32 pixels, as PNG files:
FOLDER/train/<class>/ has 390 of each of ten classes, FOLDER/val/<class>/ 40 of digits that are not among those.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from nas.data.cluttered import scatter

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = {"train": (slice(0, 130), 3), "val": (slice(130, 170), 1)}
"""Digits of each class, and maps of each digit."""


def write_images(folder: Path) -> None:
    digits, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    of_class = [np.flatnonzero(labels == label) for label in range(len(CLASSES))]
    for seed, (part, (rows, copies)) in enumerate(PARTS.items()):
        chosen = np.concatenate([numbers[rows] for numbers in of_class])
        maps = np.empty((len(chosen) * copies, 1, 32, 32), np.uint8)
        scatter((digits[chosen].reshape(-1, 8, 8) * 15.9375).astype(np.uint8), maps, copies, seed)
        for number, (label, pixels) in enumerate(zip(labels[chosen].repeat(copies), maps[:, 0], strict=True)):
            place = folder / part / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:04}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_images(Path(sys.argv[1]))
