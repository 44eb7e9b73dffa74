"""Images decoded once into a memory-mapped file that all processes of a machine share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.base.files import sync
from nas.base.locks import file_lock
from nas.base.machine import num_cpus
from nas.data.images.folders import FolderListing
from nas.data.images.reading import DataError, centre_square, read_image

CACHE_FORMAT = 2


@dataclass(frozen=True, eq=False)
class CachedImages:
    """pixels uint8 [N, C, H, W] (memory-mapped), labels int64 [N]; `fingerprint` is equal for equal content."""

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    fingerprint: str


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
            pixels[position] = np.asarray(centre_square(image, resolution)).transpose(2, 0, 1)
            return None

        # Pillow decodes and resizes without holding the interpreter lock
        with ThreadPoolExecutor(num_cpus()) as pool:
            errors = [error for error in pool.map(decode, range(len(pixels))) if error]
        if errors:
            more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
            raise DataError(f"{len(errors)} unreadable images: {'; '.join(errors[:3])}{more}")
        return listing.labels, listing.class_names

    return cached_images(cache_dir, identity, build)


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
