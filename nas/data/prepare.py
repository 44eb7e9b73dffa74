"""Preparing a folder of images: every file is looked at once, and resized copies are written into tar shards."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nas.base.files import sync, write_atomically
from nas.base.locks import RunLock
from nas.base.machine import num_cpus
from nas.data.images.folders import FolderListing
from nas.data.images.parts import list_parts
from nas.data.images.reading import (
    UNREADABLE,
    DataError,
    eight_bits,
    is_deep,
    num_bits,
    open_image,
    orientation,
    read_image,
    suffixes,
)
from nas.data.images.shards import ShardListing
from nas.data.randomness import generator

MOST_PIXELS = 89_478_485
"""Above this a small file may be made to fill the memory; Pillow warns there as well."""
HARMLESS = ("wrong extension", "CMYK", "palette", "16 bits", "floating point", "EXIF orientation")
BLANK_LEVELS = 4
"""Of 256: an image of more than 8 bits that takes fewer after its conversion shows nothing."""


@dataclass(frozen=True)
class Finding:
    """Something about an image file that a training would stumble over, or, where harmless, converts."""

    path: str
    kind: str
    detail: str

    @property
    def is_harmless(self) -> bool:
        return self.kind in HARMLESS


def examine(path: Path, content: io.BytesIO | None = None) -> Finding | None:
    """Read a file, or its `content`, completely. Kinds: empty, not an image, bomb, truncated, blank; harmless ones are
    in HARMLESS."""
    try:
        if not (path.stat().st_size if content is None else content.getbuffer().nbytes):
            return Finding(str(path), "empty", "0 bytes")
        with open_image(path if content is None else content) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                return Finding(str(path), "bomb", f"{width}x{height} pixels")
            suffix = path.suffix.lower()
            expected = Image.registered_extensions().get(suffix)
            found, mode, turn = image.format, image.mode, orientation(image)
            stored_deep = is_deep(image) or any(";16" in str(tile.args) for tile in image.tile)
            image.load()
            pixels = np.asarray(image)
    except Image.UnidentifiedImageError:
        return Finding(str(path), "not an image", "unknown format")
    except Image.DecompressionBombError as error:
        return Finding(str(path), "bomb", str(error))
    except UNREADABLE as error:
        return Finding(str(path), "truncated", str(error) or type(error).__name__)
    if stored_deep:
        return _examine_deep(path, pixels, mode)
    if suffix in suffixes() and expected != found and {expected, found} != {"JPEG", "MPO"}:
        return Finding(str(path), "wrong extension", f"{path.suffix} is a {found}")
    if odd := {"CMYK": "CMYK", "P": "palette", "PA": "palette"}.get(mode):
        return Finding(str(path), odd, f"mode {mode}")
    if turn != 1:
        return Finding(str(path), "EXIF orientation", f"{turn}; trained as it is stored, shown turned by viewers")
    return None


def _examine_deep(path: Path, pixels: np.ndarray, mode: str) -> Finding:
    """Of an image whose file has more than 8 bits per value."""
    low, high = pixels.min(), pixels.max()
    if pixels.ndim == 3:  # of three colours Pillow keeps the upper 8 of 16 bits
        converted, taken = pixels, "the upper 8 bits are taken"
    else:
        converted = eight_bits(pixels)
        whole = np.issubdtype(pixels.dtype, np.integer) and low >= 0
        taken = f"taken as {num_bits(pixels)} bits" if whole else "stretched to 8 bits"
    values = f"mode {mode}, values {low:g} to {high:g}"
    if int(converted.max()) - int(converted.min()) < BLANK_LEVELS:
        return Finding(str(path), "blank", f"{values}, {converted.min()} to {converted.max()} of 255 as 8 bits")
    return Finding(str(path), "floating point" if mode == "F" else "16 bits", f"{values}, {taken}")


def prepare(
    data_dir: Path,
    output: Path | None,
    *,
    shorter_side: int = 500,
    quality: int = 90,
    images_per_shard: int = 5000,
    max_bad: int = 0,
    on_image: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Examine all images below `data_dir`, and write them to `output` as shards that `nas retrain --data` reads.

    An image whose shorter side is longer than `shorter_side` is scaled down to it; it is stored as JPEG of `quality`,
    unless it is one already and stays as it is. Unreadable files are left out, `max_bad` at most: beyond, and where
    `output` is None, nothing is written. Returns counts, findings and shards. Raises DataError for a missing folder and
    for an `output` that exists.
    """
    if output is not None and output.exists():
        raise DataError(f"{output}: exists; move it away, or give another --output")
    found = list_parts(data_dir)
    parts = {"train": found.training, "val": found.evaluation}
    listings = {name: part for name, part in parts.items() if isinstance(part, FolderListing | ShardListing)}
    if not listings:
        raise DataError(f"{data_dir}: expected folders of images or tars; data sets need no preparing")
    findings: list[Finding] = []
    bad_rows: dict[str, set[int]] = {}
    for name, listing in listings.items():
        examined = list(_examined(listing, on_image))
        findings += [finding for _, finding in examined]
        bad_rows[name] = {row for row, finding in examined if not finding.is_harmless}
    num_bad = sum(map(len, bad_rows.values()))
    summary = {
        "images": {name: len(listing) for name, listing in listings.items()},
        "classes": len(listings["train"].class_names),
        "findings": dict(Counter(finding.kind for finding in findings)),
        "unreadable": num_bad,
        "notes": list(found.notes),
        "files": [asdict(finding) for finding in findings],
        "shards": [],
    }
    if output is None or num_bad > max_bad:
        return summary
    partial = output.with_name(output.name + ".partial")
    with RunLock(partial.with_suffix(".lock"), str(partial)):
        shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was cut off
        partial.mkdir(parents=True)
        for name, listing in listings.items():
            kept = [row for row in range(len(listing)) if row not in bad_rows[name]]
            # in random order, for readers that go through shards from end to end
            order = torch.randperm(len(kept), generator=generator("cpu", "shards", name)).tolist()
            rows = [kept[position] for position in order]
            for number, start in enumerate(range(0, len(rows), images_per_shard)):
                path = partial / f"{name}-{number:06d}.tar"
                _write_shard(path, listing, rows[start : start + images_per_shard], shorter_side, quality)
                summary["shards"].append(path.name)
        write_atomically(partial / "classes.json", json.dumps(list(listings["train"].class_names)))
        write_atomically(partial / "prepared.json", json.dumps(summary, indent=1))
        partial.replace(output)
        sync(output.parent)
        partial.with_suffix(".lock").unlink()
    return summary


def _examined(
    listing: FolderListing | ShardListing, on_image: Callable[[int], object]
) -> Iterator[tuple[int, Finding]]:
    def examined(row: int) -> Finding | None:
        content = listing.open(row)
        if isinstance(content, Path):
            return examine(content)
        return examine(Path(listing.name(row)).with_name(listing.file_name(row)), content)

    # Pillow decodes without holding the interpreter lock
    with ThreadPoolExecutor(num_cpus()) as pool:
        for row, finding in enumerate(pool.map(examined, range(len(listing)))):
            on_image(1)
            if finding:
                yield row, finding


def _write_shard(
    path: Path, listing: FolderListing | ShardListing, rows: list[int], shorter_side: int, quality: int
) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive, ThreadPoolExecutor(num_cpus()) as pool:
        contents = pool.map(lambda row: _stored(listing.name(row), listing.open(row), shorter_side, quality), rows)
        for row, content in zip(rows, contents, strict=True):
            for extension, data in ((".jpg", content), (".cls", str(listing.labels[row]).encode())):
                member = tarfile.TarInfo(f"{row:09d}{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    sync(path)


def _stored(name: str, content: Path | io.BytesIO, shorter_side: int, quality: int) -> bytes:
    """The bytes of a file's JPEG, as it is where that serves."""
    with open_image(content) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L") and min(image.size) <= shorter_side:
            return content.read_bytes() if isinstance(content, Path) else content.getvalue()
    image = read_image(name, shorter_side, None if isinstance(content, Path) else content)
    if min(image.size) > shorter_side:
        scale = shorter_side / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
