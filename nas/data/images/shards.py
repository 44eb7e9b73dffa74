"""Images in tar shards, in webdataset's layout: KEY.jpg beside KEY.cls (its class as a number) in an uncompressed tar;
and in ImageNet's tars, see `nas.data.images.imagenet_tars`.

Members are read in any order by their offsets, so that shards train exactly as a folder with the same images would.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nas.base.files import whole_file
from nas.base.locks import file_lock
from nas.data.images import imagenet_tars
from nas.data.images.reading import DataError, suffixes

INDEX_FORMAT = 2


@dataclass(frozen=True, eq=False)
class ShardListing:
    """Images of shards, in their order there. Arrays int64 [N]: shard, offset and size in bytes, label."""

    root: Path
    shards: tuple[str, ...]
    spans: np.ndarray
    """[N, 3]: number of the shard, offset, size."""
    labels: np.ndarray
    class_names: tuple[str, ...]
    is_upright = False
    _descriptors: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> ShardListing:
        """The listing that keeps only these rows."""
        kept = np.asarray(rows, dtype=np.int64)
        return ShardListing(self.root, self.shards, self.spans[kept], self.labels[kept], self.class_names)

    def name(self, row: int) -> str:
        """What messages call an image."""
        shard, offset, _ = self.spans[row]
        return f"{self.root / self.shards[shard]} at byte {offset}"

    def file_name(self, row: int) -> str:
        """As its header in the tar has it, without folders. Raises OSError."""
        shard, offset, _ = map(int, self.spans[row])
        header = self._read(shard, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
        return Path(header[:100].rstrip(b"\0").decode("utf-8", "replace")).name

    def open(self, row: int) -> io.BytesIO:
        """The bytes of an image's file. Raises OSError."""
        shard, offset, size = map(int, self.spans[row])
        return io.BytesIO(self._read(shard, size, offset))

    def _read(self, shard: int, size: int, offset: int) -> bytes:
        key = os.getpid(), shard  # a forked process must not share a file that the first one may close
        if key not in self._descriptors:
            self._descriptors[key] = os.open(self.root / self.shards[shard], os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._descriptors[key], size, offset)

    def identity(self) -> str:
        """Equal for equal content."""
        digest = hashlib.sha256(repr((self.shards, self.class_names)).encode())
        for array in (self.spans, self.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def list_shards(data_dir: Path, shards: Sequence[Path], cache_dir: Path | None = None) -> ShardListing:
    """Find the images in shards; the index, minutes of work for ImageNet, is kept in `cache_dir`.

    Class names stand in classes.json (a list) in `data_dir`, and are numbers otherwise; ImageNet's are WordNet numbers.
    Raises DataError that names the place of a missing or impossible class, and of a file that is no tar.
    """
    stats = [(str(path.relative_to(data_dir)), path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    fingerprint = hashlib.sha256(json.dumps([INDEX_FORMAT, stats]).encode()).hexdigest()
    if cache_dir is None or [path.name for path in shards] == [imagenet_tars.VAL]:  # whose classes lie elsewhere
        spans, labels, names = _index(shards)
    else:
        kept = Path(cache_dir) / f"shards-{fingerprint[:16]}.npz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(kept.with_suffix(".lock")):
            if not kept.exists():
                spans, labels, names = _index(shards)
                with whole_file(kept) as partial, partial.open("wb") as file:  # np.savez renames what has no .npz
                    np.savez(file, spans=spans, labels=labels, names=np.array(names, dtype=str))
        with np.load(kept, allow_pickle=False) as arrays:
            spans, labels, names = arrays["spans"], arrays["labels"], tuple(map(str, arrays["names"]))
    names = names or _class_names(data_dir, int(labels.max()) + 1)
    return ShardListing(data_dir, tuple(name for name, _, _ in stats), spans, labels, names)


def _index(shards: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Spans, labels, and the names of classes where the tars have them."""
    spans, labels = [], []
    try:
        found = imagenet_tars.find_images(shards)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shards[0]}: unreadable tar of ImageNet ({error})") from None
    if found is not None:
        if not len(found.labels):
            raise DataError(f"{shards[0]}: no images in it")
        return found.spans, found.labels, found.class_names
    for number, path in enumerate(shards):
        images: dict[str, tuple[int, int]] = {}
        classes: dict[str, int] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    key, extension = os.path.splitext(member.name)
                    if not member.isfile():
                        continue
                    if extension.lower() in suffixes():
                        images[key] = member.offset_data, member.size
                    elif extension == ".cls":
                        with open(path, "rb") as file:
                            classes[key] = int(os.pread(file.fileno(), min(member.size, 32), member.offset_data))
        except (tarfile.TarError, OSError, ValueError) as error:
            raise DataError(f"{path}: unreadable shard ({error})") from None
        missing = images.keys() - classes.keys()
        if missing:
            raise DataError(f"{path}: {len(missing)} images have no .cls beside them, {min(missing)} for one")
        if not images or min(classes.values()) < 0:
            raise DataError(f"{path}: {'a class below 0' if images else 'no images'}; expected KEY.jpg and KEY.cls")
        spans += [(number, *images[key]) for key in images]
        labels += [classes[key] for key in images]
    return np.asarray(spans, dtype=np.int64).reshape(-1, 3), np.asarray(labels, dtype=np.int64), ()


def _class_names(data_dir: Path, least: int) -> tuple[str, ...]:
    path = data_dir / "classes.json"
    if not path.exists():
        return tuple(map(str, range(least)))
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(names, list) or len(names) < least:
        raise DataError(f"{path}: expected a list of at least {least} class names, as many as the shards have classes")
    return tuple(map(str, names))
