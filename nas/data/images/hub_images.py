"""Images of a Hugging Face data set, by its name there or in a local folder: `hf:NAME`, `hf:FOLDER`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.base.seeds import keyed_seed
from nas.data.images.reading import DataError

PREFIX = "hf:"


@dataclass(frozen=True, eq=False)
class HubListing:
    """Some images of one split, in its order; `rows` int64 [N] of its table, labels int64 [N]."""

    source: str
    split: str
    rows: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    column: Any
    """The images alone, undecoded."""
    is_upright = True
    """Whether images are turned as their EXIF orientation says: the package `datasets` does."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int]) -> HubListing:
        """The listing that keeps only these rows."""
        kept = np.asarray(rows, dtype=np.int64)
        return replace(self, rows=self.rows[kept], labels=self.labels[kept])

    def name(self, row: int) -> str:
        """What messages call an image."""
        return f"{self.source} {self.split}[{self.rows[row]}]"

    def file_name(self, row: int) -> str:
        """Where it stands; reading the name of the file would read all of it."""
        return self.name(row)

    def open(self, row: int) -> io.BytesIO:
        """The bytes of an image's file. Raises OSError."""
        (cell,) = self.column[int(self.rows[row])].values()
        if cell is None:
            raise OSError("no image there")
        return io.BytesIO(cell["bytes"] or Path(cell["path"]).read_bytes())

    def identity(self) -> str:
        """Equal for equal names, rows and classes."""
        arrays = [keyed_seed(array.tobytes().hex()) for array in (self.rows, self.labels)]
        return repr((self.source, self.split, arrays, self.class_names))


def is_hub(data_dir: Path) -> bool:
    """Whether what stands for a folder means a Hugging Face data set."""
    return str(data_dir).startswith(PREFIX)


def open_hub(data_dir: Path) -> tuple[dict[str, Any], bool]:
    """The tables of a data set by the names of their splits; and whether it is one table that has none.

    A folder is read as `save_to_disk` wrote it, or as `datasets.load_dataset` takes it; a name is downloaded once, to
    where the package `datasets` keeps its files. Raises DataError.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"{data_dir}: needs the package datasets (pip install 'opnas[hub]')") from None
    name = str(data_dir).removeprefix(PREFIX)
    saved = any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json"))
    datasets.disable_progress_bars()
    try:
        found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{data_dir}: cannot be loaded as a data set ({reason})") from None
    if not isinstance(found, dict):
        return {"train": found}, True
    return {str(split): table for split, table in found.items()}, False


def list_split(data_dir: Path, split: str, table: Any) -> HubListing:
    """Where the one column of images and the one of classes are."""
    import datasets

    columns = []
    for kind in (datasets.Image, datasets.ClassLabel):
        fitting = [name for name, feature in table.features.items() if isinstance(feature, kind)]
        if len(fitting) != 1:
            there = ", ".join(f"{name}: {type(feature).__name__}" for name, feature in table.features.items())
            raise DataError(f"{data_dir}: expected one column of type {kind.__name__} in {split}, not {there}")
        columns += fitting
    images, classes = columns
    labels = np.asarray(table[classes], dtype=np.int64)
    if not len(labels) or labels.min() < 0:
        raise DataError(f"{data_dir}: {'rows without a class' if len(labels) else 'no images'} in {split}")
    column = table.select_columns([images]).cast_column(images, datasets.Image(decode=False))
    names = tuple(table.features[classes].names)
    return HubListing(str(data_dir), split, np.arange(len(labels)), labels, names, column)
