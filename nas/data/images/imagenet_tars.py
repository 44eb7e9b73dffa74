"""ImageNet's tars as they are downloaded, read in place: ILSVRC2012_img_train.tar, which has a tar for each class; the
same tars in a folder, n01440764.tar and so on; ILSVRC2012_img_val.tar, whose classes another file says."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from nas.data.images.imagenet import DEVKIT, KAGGLE, WORDNET, validation_labels
from nas.data.images.reading import DataError, suffixes

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


@dataclass(frozen=True, eq=False)
class Found:
    """Images in the order in which unpacked folders are listed: spans int64 [N, 3] (number of the tar, offset and
    size in bytes), labels int64 [N]."""

    spans: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def find_images(tars: Sequence[Path]) -> Found | None:
    """The images of tars, None where they are none of ImageNet's. Raises DataError, tarfile.TarError, OSError."""
    if [path.name for path in tars] == [VAL]:
        return _found(sorted(_of_validation(tars[0]), key=lambda row: row[1]))
    if [path.name for path in tars] == [TRAIN]:
        return _found(sorted(_of_classes(tars[0])))
    if tars and all(WORDNET.fullmatch(path.stem) for path in tars):
        return _found(sorted(_of_class_tars(tars)))
    return None


Member = tuple[str, str, int, int, int]
"""An image: class, name, number of the tar, offset and size in bytes."""


def _found(rows: list[Member]) -> Found:
    class_names = tuple(sorted({name for name, *_ in rows}))
    numbers = {name: number for number, name in enumerate(class_names)}
    spans = np.array([row[2:] for row in rows], dtype=np.int64).reshape(-1, 3)
    return Found(spans, np.array([numbers[row[0]] for row in rows], dtype=np.int64), class_names)


def _of_validation(path: Path) -> Iterator[Member]:
    labelled = validation_labels(path.parent)
    if labelled is None:
        raise DataError(f"{path}: no {KAGGLE}, {DEVKIT}.tar.gz or folder {DEVKIT} beside it says the images' classes")
    source, labels = labelled
    with path.open("rb") as file:
        for name, offset, size in _images(file):
            if name not in labels:
                raise DataError(f"{path}: {source} has no line for {name}")
            yield labels[name], name, 0, offset, size


def _of_classes(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:") as outer:
        for member in outer:
            class_name, extension = os.path.splitext(os.path.basename(member.name))
            if extension == ".tar" and (inner := outer.extractfile(member)) is not None:
                for name, offset, size in _images(inner):
                    yield class_name, name, 0, member.offset_data + offset, size


def _of_class_tars(tars: Sequence[Path]) -> Iterator[Member]:
    for number, path in enumerate(tars):
        with path.open("rb") as file:
            for name, offset, size in _images(file):
                yield path.stem, name, number, offset, size


def _images(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Of a tar: name without its suffix, offset and size of each image."""
    with tarfile.TarFile(fileobj=file) as archive:
        for member in archive:
            name, extension = os.path.splitext(os.path.basename(member.name))
            if member.isfile() and extension.lower() in suffixes():
                yield name, member.offset_data, member.size
