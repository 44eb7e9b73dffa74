"""Images in a folder with one folder per class.

Links to files and folders are followed, but not back to a folder that they lie in. A file counts as an image by a
suffix that `nas.data.images.reading` knows, or, without any suffix, by its content; hidden ones do not count. How many
others there are is kept, to be said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.data.images.reading import DataError, is_image, suffixes

OUTSIDE, NO_SUFFIX, NO_FILE, LOOP = "outside the class folders", "without a suffix", "no regular files", "links back"


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder with one folder per class, sorted by class and name; paths are relative to `root`."""

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...] = ()
    """What does not count as an image, and how many there are of it: a suffix, or some words."""
    is_upright = False

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """What messages call an image."""
        return str(self.root / self.paths[row])

    def file_name(self, row: int) -> str:
        return Path(self.paths[row]).name

    def open(self, row: int) -> Path:
        """Where an image's file is read from."""
        return self.root / self.paths[row]

    def identity(self) -> str:
        """Equal for equal names and classes."""
        return str((self.paths, self.labels, self.class_names))

    def take(self, rows: Sequence[int]) -> FolderListing:
        """The listing that keeps only these rows."""
        paths, labels = [self.paths[row] for row in rows], [self.labels[row] for row in rows]
        return replace(self, paths=tuple(paths), labels=tuple(labels))

    @property
    def notes(self) -> list[str]:
        """What was left out, in words."""
        if not self.left_out:
            return []
        parts = ", ".join(f"{count:,} {what}" for what, count in self.left_out)
        return [f"{self.root}: {sum(count for _, count in self.left_out):,} files left out: {parts}"]


def list_folder(root: Path, *, to_train: bool = True) -> FolderListing:
    """Find the images below `root`/<class>/, at any depth.

    Raises DataError for a folder without class folders; and, of images `to_train` with, where there are fewer than two,
    or one without images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one folder of images per class in it")
    found = [item for item in os.scandir(root) if not item.name.startswith(".")]
    class_names = sorted(item.name for item in found if item.is_dir())
    if len(class_names) < (2 if to_train else 1):
        raise DataError(
            f"{root}: {len(class_names)} class folders; expected two or more, one for the images of each class"
        )
    left_out = Counter({OUTSIDE: sum(_suffix(item.name) in suffixes() for item in found if not item.is_dir())})
    paths, labels = [], []
    for label, name in enumerate(class_names):
        folder = os.path.join(root, name)
        images = sorted(os.path.relpath(path, root) for path in _images(folder, (_identity(root),), left_out))
        if not images and to_train:
            raise DataError(f"{folder}: no images; expected at least one file that Pillow reads, such as .jpg or .png")
        paths += images
        labels += [label] * len(images)
    if not paths:
        raise DataError(f"{root}: no images in its {len(class_names)} class folders")
    kept = tuple((what, count) for what, count in left_out.most_common() if count)
    return FolderListing(root, tuple(paths), tuple(labels), tuple(class_names), kept)


def list_files(root: Path) -> list[Path]:
    """All images below a folder, sorted. Raises DataError where there are none."""
    found = sorted(map(Path, _images(str(root), (), Counter())))
    if not found:
        raise DataError(f"{root}: no images; expected at least one file that Pillow reads, such as .jpg or .png")
    return found


def _images(folder: str, above: tuple[tuple[int, int], ...], left_out: Counter[str]) -> Iterator[str]:
    """Paths of the images in a folder; `above` identifies the folders that it was reached by."""
    above = (*above, _identity(folder))
    with os.scandir(folder) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir():
                if _identity(item.path) in above:
                    left_out[LOOP] += 1
                else:
                    yield from _images(item.path, above, left_out)
            elif not item.is_file() and os.path.exists(item.path):
                left_out[NO_FILE] += 1
            elif (suffix := _suffix(item.name)) in suffixes() or (not suffix and is_image(item.path)):
                yield item.path
            else:
                left_out[suffix or NO_SUFFIX] += 1


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _identity(folder: Path | str) -> tuple[int, int]:
    """The same for all paths to a folder."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino
