"""EvaluationSource: the images that a network is evaluated on, read as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nas.data.batches import Batch, Shard
from nas.data.images.parts import Listing
from nas.data.images.reading import DataError, read_image
from nas.data.loading import loader
from nas.data.preparation import Preparation

Read = tuple[Tensor, Tensor, list, list[str]]


class BadImages(set[str]):
    """Messages of unreadable images, `most` of them at most."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def note(self, problems: list[str]) -> None:
        """Raises DataError beyond the limit."""
        self.update(problems)
        if len(self) > self.most:
            raise DataError(f"{problems[0]}; {len(self)} unreadable, retrain.max_bad_images allows {self.most}")


class EvaluationSource:
    """All images of a listing at `side` pixels; with a share, those of this process.

    With `labels_are_rows` batches have rows of the listing in the place of labels. Raises DataError when it is an
    unreadable image's turn; up to `bad_images.most` of them are left out.
    """

    def __init__(
        self,
        listing: Listing,
        preparation: Preparation,
        side: int,
        *,
        batch_size: int,
        device: torch.device,
        num_workers: int = 0,
        timeout: float = 600,
        shard: Shard | None = None,
        bad_images: BadImages | None = None,
        labels_are_rows: bool = False,
    ):
        shard = shard or Shard()
        self.listing, self.class_names, self.num_validation = listing, listing.class_names, len(listing)
        self.bad_images = BadImages(0) if bad_images is None else bad_images
        self._device, self._normalise = device, preparation.normaliser(device)
        self._labels_are_rows = labels_are_rows
        mine = torch.arange(len(listing)).tensor_split(shard.world)[shard.rank]
        batches = [rows.tolist() for rows in mine.split(batch_size)]
        images = _Centres(listing, preparation, side)
        self._loader = loader(images, batches, device, num_workers, timeout)

    def validation_batches(self) -> Iterator[Batch]:
        """Images float32 [N, C, H, W], normalised, and labels int64 [N], on the device."""
        for pixels, labels, rows, problems in self._loader:
            if problems:
                self.bad_images.note(problems)
            if self._labels_are_rows:
                labels = torch.tensor(rows)
            if len(labels):
                yield self._normalise(pixels.to(self._device, non_blocking=True)), labels.to(self._device)

    def check(self) -> None:
        """Read all images once. Raises DataError where more are unreadable than are allowed."""
        for _, _, _, problems in self._loader:
            if problems:
                self.bad_images.note(problems)


class _Centres(Dataset):
    """Reads whole batches of rows in a worker: uint8 [N, C, S, S], labels int64 [N], rows, unreadable files."""

    def __init__(self, listing: Listing, preparation: Preparation, side: int):
        self._listing, self._preparation, self._side = listing, preparation, side

    def __getitems__(self, rows: list[int]) -> Read:
        images, kept, problems = [], [], []
        for row in rows:
            try:
                image = read_row(self._listing, row, channels=self._preparation.channels)
                images.append(self._preparation.pixels(image, self._side))
                kept.append(row)
            except DataError as error:  # as a value: an exception would arrive wrapped in the worker's traceback
                problems.append(str(error))
        labels = torch.tensor([int(self._listing.labels[row]) for row in kept], dtype=torch.int64)
        return torch.stack(images) if images else torch.empty(0), labels, kept, problems


def read_row(listing: Listing, row: int, shorter_side: int | None = None, channels: int = 3) -> Image.Image:
    """An image of a listing, as `nas.data.images.reading` says. Raises DataError."""
    try:
        content = listing.open(row)
    except OSError as error:
        raise DataError(f"{listing.name(row)}: unreadable image ({error})") from None
    return read_image(
        listing.name(row),
        shorter_side,
        content if isinstance(content, io.BytesIO) else None,
        upright=listing.is_upright,
        channels=channels,
    )
