"""Images decoded once into a memory-mapped file that all processes of a machine share."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas.base.errors import UserError
from nas.base.files import sync
from nas.base.locks import file_lock

CACHE_FORMAT = 1
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class DataError(UserError):
    """Images that are absent, unreadable, or not as expected; the message names the place."""


@dataclass(frozen=True, eq=False)
class CachedImages:
    """pixels uint8 [N, C, H, W] (memory-mapped), labels int64 [N]; `fingerprint` is equal for equal content."""

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder with one folder per class, sorted by class and name; paths are relative to `root`."""

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        """What messages call an image."""
        return str(self.root / self.paths[row])

    def open(self, row: int) -> Path:
        """Where an image's file is read from."""
        return self.root / self.paths[row]

    def identity(self) -> str:
        """Equal for equal names and classes."""
        return str((self.paths, self.labels, self.class_names))

    def take(self, rows: Sequence[int]) -> FolderListing:
        """The listing that keeps only these rows."""
        paths, labels = [self.paths[row] for row in rows], [self.labels[row] for row in rows]
        return FolderListing(self.root, tuple(paths), tuple(labels), self.class_names)


Build = Callable[[Callable[[tuple[int, ...]], np.ndarray]], tuple[Sequence[int], Sequence[str]]]


def cached_images(cache_dir: Path, identity: object, build: Build) -> CachedImages:
    """The images that `identity` (plain data) stands for; built where absent, by one process while the others wait.

    `build(create)` gets the pixel array [N, C, H, W] from `create(shape)`, fills it, returns labels and class names.
    An entry is a folder that gets its name only when it is whole and on disk, so a crash leaves nothing that is used.
    Raises DataError where the cache's folder cannot be made.
    """
    fingerprint = hashlib.sha256(json.dumps([CACHE_FORMAT, identity]).encode()).hexdigest()
    entry = Path(cache_dir) / f"images-{fingerprint[:16]}"
    if not entry.is_dir():
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{entry.parent}: decoded images cannot be kept there: {error.strerror}") from None
        with file_lock(entry.with_suffix(".lock")):
            if not entry.is_dir():
                partial = entry.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                try:
                    _write(partial, build)
                    partial.rename(entry)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
                sync(entry.parent)
    # copy-on-write, because torch wants memory that it may write to; unwritten pages stay shared between processes
    pixels = torch.from_numpy(np.load(entry / "pixels.npy", mmap_mode="c"))
    labels = torch.from_numpy(np.load(entry / "labels.npy"))
    return CachedImages(
        pixels, labels, tuple(json.loads((entry / "classes.json").read_text(encoding="utf-8"))), fingerprint
    )


def list_folder(root: Path) -> FolderListing:
    """Find the images below `root`/<class>/, at any depth. Raises DataError where there is nothing to train on."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one folder of images per class in it")
    class_names = sorted(item.name for item in os.scandir(root) if item.is_dir() and not item.name.startswith("."))
    if len(class_names) < 2:
        raise DataError(
            f"{root}: {len(class_names)} class folders; expected two or more, one for the images of each class"
        )
    paths, labels = [], []
    for label, name in enumerate(class_names):
        found = sorted(
            os.path.relpath(os.path.join(place, file), root)
            for place, _, files in os.walk(root / name)
            for file in files
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith(".")
        )
        if not found:
            raise DataError(f"{root / name}: no images; expected at least one {', '.join(sorted(EXTENSIONS))}")
        paths += found
        labels += [label] * len(found)
    return FolderListing(root, tuple(paths), tuple(labels), tuple(class_names))


def cached_folder(cache_dir: Path, listing: FolderListing, resolution: int) -> CachedImages:
    """The listed images as RGB, shorter side resized to `resolution`, centre cut out.

    Rebuilt when a path, a size or a time of change differs. Raises DataError that names the unreadable files.
    """
    stats = [os.stat(listing.root / path) for path in listing.paths]
    files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(listing.paths, stats, strict=True)]
    identity = ["folder", resolution, listing.class_names, files]

    def build(create):
        pixels = create((len(listing.paths), 3, resolution, resolution))

        def decode(position: int) -> str | None:
            try:
                image = read_image(listing.root / listing.paths[position], shorter_side=resolution)
            except DataError as error:
                return str(error)
            pixels[position] = np.asarray(square(image, resolution)).transpose(2, 0, 1)
            return None

        # Pillow decodes and resizes without holding the interpreter lock
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = [error for error in pool.map(decode, range(len(pixels))) if error]
        if errors:
            more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
            raise DataError(f"{len(errors)} unreadable images: {'; '.join(errors[:3])}{more}")
        return listing.labels, listing.class_names

    return cached_images(cache_dir, identity, build)


def read_image(path: Path | str, shorter_side: int, content: io.BytesIO | None = None) -> Image.Image:
    """Decode one image file, or its `content`, to RGB; a JPEG at the smallest scale that keeps `shorter_side` pixels.

    Raises DataError that names the file.
    """
    try:
        with Image.open(path if content is None else content) as image:
            image.draft("RGB", (shorter_side, shorter_side))
            if image.mode.startswith("I"):  # 16 bits per pixel, which convert() would clip to 255
                return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except UNREADABLE as error:
        raise DataError(f"{path}: unreadable image ({error})") from None


def square(
    image: Image.Image,
    resolution: int,
    resized_side: int | None = None,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Resize the shorter side to `resized_side` (absent: `resolution`) and cut the centre square out."""
    scale = (resized_side or resolution) / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    resized = image if image.size == (width, height) else image.resize((width, height), resampling)
    return resized.crop((left, top, left + resolution, top + resolution))


def _write(entry: Path, build: Build) -> None:
    entry.mkdir()
    arrays = []

    def create(shape: tuple[int, ...]) -> np.ndarray:
        arrays.append(np.lib.format.open_memmap(entry / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape))
        return arrays[0]

    labels, class_names = build(create)
    arrays.pop().flush()
    np.save(entry / "labels.npy", np.asarray(labels, dtype=np.int64))
    (entry / "classes.json").write_text(json.dumps(list(class_names)), encoding="utf-8")
    for path in (*entry.iterdir(), entry):
        sync(path)
