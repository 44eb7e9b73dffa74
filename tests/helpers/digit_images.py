"""Real digits as folders of pictures, for the tests of data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PER_CLASS = 12


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """PNG files made from real digits, 12 of each of four classes, 24x20 pixels, under train/ and 3 each under val/."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for label in range(4):
        of_class = np.asarray(images)[np.asarray(labels) == label].reshape(-1, 8, 8)
        for number in range(PER_CLASS + 3):
            target = root / ("train" if number < PER_CLASS else "val") / f"class{label}"
            target.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((of_class[number] * 15.9375).astype(np.uint8))
            grey.resize((24, 20)).save(target / f"{number}.png")
    return root


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )
