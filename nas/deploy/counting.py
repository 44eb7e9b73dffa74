"""How an evaluation counts what is right: as images are labelled, among their classes alone, by ReaL's labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from nas.data.evaluation import EvaluationSource
from nas.data.images.imagenet import by_imagenet_number
from nas.data.images.parts import Listing
from nas.data.images.reading import DataError
from nas.training.loop import Count, Evaluated, count_right

GIVEN, REAL = "among_given", "real"
VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")


def ways_of_counting(source: Evaluated, num_classes: int, real: Tensor | None = None) -> dict[str, Count]:
    """By name, the first one as images are labelled; `among_given` where they are of some of the classes only: the
    likeliest of these, as ImageNet-A and -R are scored; `real` with ReaL's labels [images, classes]. Of a listing the
    source gives rows instead of labels."""
    if not isinstance(source, EvaluationSource):
        return {"labelled": count_right}
    labels = torch.as_tensor(source.listing.labels, dtype=torch.int64)
    ways: dict[str, Count] = {"labelled": count_right}
    given = labels.unique()
    if len(given) < num_classes:
        ways[GIVEN] = lambda logits, labels: count_right(
            logits[:, given.to(logits.device)], torch.searchsorted(given.to(logits.device), labels)
        )
    of_rows: dict[str, Count] = {
        name: lambda logits, rows, count=count: count(logits, labels.to(rows.device)[rows])
        for name, count in ways.items()
    }
    if real is None:
        return of_rows
    return of_rows | {REAL: lambda logits, rows: _count_real(logits, real.to(rows.device)[rows])}


def _count_real(logits: Tensor, right: Tensor) -> Tensor:
    """float64 [4] as `count_right`, without a cross entropy, of the images that have any of the labels [N, C]."""
    guesses = right.gather(1, logits.topk(min(5, logits.shape[1]), dim=1).indices)
    counts = [guesses[:, 0].sum(), guesses.any(1).sum(), right.any(1).sum()]
    return torch.stack([logits.new_zeros(()).double(), *(count.double() for count in counts)])


def read_real_labels(path: Path, listing: Listing, class_names: list[str]) -> Tensor:
    """Which classes are right for each image of a listing, bool [images, classes]; none where ReaL left it out.

    The file is a JSON list with a list of ImageNet's class numbers for each validation image, in the order of their
    numbers, which their file names have. Raises DataError for another file, and for images of other names.
    Paper: Are we done with ImageNet?, https://arxiv.org/abs/2006.07159
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        right = [[int(number) for number in numbers] for numbers in found]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"--real-labels {path}: no JSON list with a list of class numbers per image ({error})"
        ) from None
    classes = by_imagenet_number(class_names)
    wrong = [number for numbers in right for number in numbers if not 0 <= number < len(classes)]
    if wrong:
        raise DataError(f"--real-labels {path}: has the class {wrong[0]}, the network 0 to {len(classes) - 1}")
    table = torch.zeros(len(listing), len(classes), dtype=torch.bool)
    for row in range(len(listing)):
        name = listing.file_name(row)
        number = VALIDATION_IMAGE.match(name)
        if number is None or not 1 <= int(number[1]) <= len(right):
            raise DataError(
                f"--real-labels {path}: {name} is not of its {len(right):,} images, which are called "
                "ILSVRC2012_val_ and their number from 00000001 on"
            )
        table[row, [classes[label] for label in right[int(number[1]) - 1]]] = True
    if not table.any():
        raise DataError(f"--real-labels {path}: none of the {len(listing):,} images has a label there")
    return table
