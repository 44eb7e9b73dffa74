"""ImageNet as it is downloaded: validation images in one flat folder, their classes in a file beside or above it.

Two such files are known: LOC_val_solution.csv (Kaggle: ILSVRC/Data/CLS-LOC/val, the file in the folder above ILSVRC)
and the development kit's data/ILSVRC2012_validation_ground_truth.txt with data/meta.mat, also in its tar.gz.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.data.images.folders import FolderListing
from nas.data.images.reading import DataError

KAGGLE = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
WORDNET = re.compile(r"n\d{8}")
ABOVE = 4
"""Folders above the images in which such a file is looked for."""


def list_flat(folder: Path) -> FolderListing | None:
    """The images of a flat folder with the classes (WordNet numbers, such as n01440764) that a file gives them.

    None for a folder that has no ILSVRC2012_val_*.JPEG, or no such file near it. Raises DataError where an image is in
    no line of the file.
    """
    names = sorted(path.name for path in folder.glob("ILSVRC2012_val_*.JPEG"))
    if not names:
        return None
    found = validation_labels(folder)
    if found is None:
        return None
    source, labels = found
    lost = [name for name in names if Path(name).stem not in labels]
    if lost:
        raise DataError(f"{folder / lost[0]}: {source} has no line for it")
    class_names = sorted({labels[Path(name).stem] for name in names})
    numbers = {name: number for number, name in enumerate(class_names)}
    return FolderListing(
        folder, tuple(names), tuple(numbers[labels[Path(name).stem]] for name in names), tuple(class_names)
    )


def by_imagenet_number(class_names: Sequence[str]) -> list[int]:
    """The position of each of ImageNet's classes, by its number there: that among sorted WordNet numbers, or of names
    that are none the position itself."""
    if all(WORDNET.fullmatch(name) for name in class_names):
        return sorted(range(len(class_names)), key=lambda position: class_names[position])
    return list(range(len(class_names)))


def validation_labels(folder: Path) -> tuple[Path, Mapping[str, str]] | None:
    """The file with the classes, in `folder` or above it, and name of an image without its suffix -> class.

    Raises DataError for a file that does not say them.
    """
    for root in (folder, *list(folder.resolve().parents)[:ABOVE]):
        for path in (root / KAGGLE, root / "data" / TRUTH, root / DEVKIT / "data" / TRUTH, root / TRUTH):
            if path.is_file():
                return path, _of_kaggle(path) if path.name == KAGGLE else _of_devkit(path)
        if (packed := root / f"{DEVKIT}.tar.gz").is_file():
            return packed, _of_packed(packed)
    return None


def _of_kaggle(path: Path) -> dict[str, str]:
    """Lines such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        except (KeyError, IndexError, AttributeError, TypeError):
            raise DataError(
                f"{path}: line {rows.line_num}: expected the columns ImageId and PredictionString"
            ) from None


def _of_devkit(path: Path) -> dict[str, str]:
    meta = path.with_name(META)
    try:
        return _classes(path.read_bytes(), meta.read_bytes())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{meta}: does not name the classes of {path.name} ({error})") from None


def _of_packed(path: Path) -> dict[str, str]:
    try:
        with tarfile.open(path) as archive:
            members = [archive.extractfile(f"{DEVKIT}/data/{name}") for name in (TRUTH, META)]
            truth, meta = (file.read() if file else b"" for file in members)
        return _classes(truth, meta)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: does not name the classes of the validation images ({error})") from None


def _classes(truth: bytes, meta: bytes) -> dict[str, str]:
    """`truth` has a number per line, in the order of the images, which `meta` gives a WordNet number."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    classes = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    numbers = [int(line) for line in truth.split()]
    return {f"ILSVRC2012_val_{index:08d}": classes[number] for index, number in enumerate(numbers, start=1)}
