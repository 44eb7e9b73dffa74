"""Write a folder of images to try opnas on. Usage: python scripts/example_images.py FOLDER

scikit-learn's handwritten digits, enlarged to 32x32 pixels, as PNG files: FOLDER/train/<class>/ has 130 of each of ten
classes, FOLDER/val/<class>/ 40 others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = {"train": slice(0, 130), "val": slice(130, 170)}


def write_images(folder: Path) -> None:
    digits, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    for label, name in enumerate(CLASSES):
        of_class = (digits[labels == label].reshape(-1, 8, 8) * 15.9375).astype(np.uint8)
        for part, rows in PARTS.items():
            target = folder / part / name
            target.mkdir(parents=True, exist_ok=True)
            for number, pixels in enumerate(of_class[rows]):
                Image.fromarray(pixels).resize((32, 32)).save(target / f"{number:03}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_images(Path(sys.argv[1]))
