"""Data sets as uint8 images in memory: digits, plain and cluttered, CIFAR, image folders; split by class and seed."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.base.errors import UserError
from nas.base.extensions import is_own, load, what_happened
from nas.base.locks import file_lock
from nas.base.seeds import keyed_seed
from nas.config.sections import ProxyConfig, RetrainConfig
from nas.data.cluttered import SMALLEST, scatter
from nas.data.images.folders import FolderListing
from nas.data.images.image_cache import CachedImages, cached_folder, cached_images
from nas.data.images.parts import list_parts
from nas.data.images.reading import DataError
from nas.data.randomness import generator

DIGITS_TEST_IMAGES = 300
CLUTTERED_COPIES = 3
DIGIT_NAMES = [str(digit) for digit in range(10)]
RETRAIN_VALIDATION_FRACTION = 0.1
STATISTICS_IMAGES = 2000
RESIZE_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Images:
    """Some images of an array that several parts share.

    pixels uint8 [M, C, H, W] is the array (often memory-mapped), index int64 [N] says which rows belong to this part,
    labels int64 [N] are theirs.
    """

    pixels: Tensor
    index: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor) -> Images:
        """The part that keeps only these rows."""
        return Images(self.pixels, self.index[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Training and validation images, mean and std of each channel in 0..1, and a name that only equal content has."""

    train: Images
    validation: Images
    num_classes: int
    in_channels: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str


@dataclass(frozen=True)
class Request:
    """What a loader of DATASETS is asked for; `with_test` also loads the test images, which a search never does."""

    resolution: int
    data_dir: Path | None
    cache_dir: Path
    max_images_per_class: int | None
    with_test: bool


@dataclass(frozen=True, eq=False)
class Pool:
    """What a loader returns: the images to train with, and the test images where asked for and known.

    `copies` images in a row of the array show the same original, and are never on both sides of a split.
    """

    images: Images
    test: Images | None
    class_names: tuple[str, ...]
    fingerprint: str
    copies: int = 1


def load_dataset(
    config: ProxyConfig | RetrainConfig, seed: int, cache_dir: Path, data_dir: Path | None = None
) -> ImageDataset:
    """Load the data set that `config` names, at its resolution.

    A proxy splits the training images into training and validation by class and `seed`; test images stay untouched. A
    retraining takes all training images and is evaluated on the test images, or where there are none on a tenth of the
    training images. `data_dir` replaces the one of the proxy. Decoded images are kept in `cache_dir`, for all
    processes. Raises DataError, a ValueError that names the place, when data is absent or unreadable.
    """
    if config.dataset not in DATASETS and not is_own(config.dataset):
        raise ValueError(f"dataset = {config.dataset!r}: allowed are {', '.join(DATASETS)}, or MODULE:FUNCTION")
    is_proxy = isinstance(config, ProxyConfig)
    folder = data_dir or (config.data_dir if is_proxy else None)
    limit = config.max_images_per_class if is_proxy else None
    request = Request(config.resolution, Path(folder) if folder else None, Path(cache_dir), limit, not is_proxy)
    pool = DATASETS[config.dataset](request) if config.dataset in DATASETS else _own_pool(config.dataset, request)
    train, validation = pool.images, pool.test
    if validation is None:
        fraction = config.validation_fraction if is_proxy else RETRAIN_VALIDATION_FRACTION
        train, validation = split_images(train, pool.copies, fraction, seed)
    mean, std = channel_statistics(train)
    split = keyed_seed(str(train.index.tolist()), str(validation.index.tolist()))
    return ImageDataset(
        train=train,
        validation=validation,
        num_classes=len(pool.class_names),
        in_channels=train.pixels.shape[1],
        class_names=pool.class_names,
        mean=mean,
        std=std,
        fingerprint=f"{pool.fingerprint}-{split:x}",
    )


def pool_of(
    request: Request,
    images: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> Pool:
    """What a loader returns, of arrays: (pixels uint8 [N, C, h, w], labels [N] of 0 to num_classes - 1) to train with
    and, where there are any, to test with.

    They are resized to the resolution that is asked for, and limited to so many of each class. Raises DataError.
    """
    parts = []
    for pixels, labels in (images, *([test] if test and request.with_test else [])):
        pixels, labels = np.asarray(pixels), np.asarray(labels)
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or labels.shape != pixels.shape[:1] or not len(pixels):
            raise DataError(
                f"images: pixels are {pixels.dtype} {list(pixels.shape)}, labels {labels.dtype} {list(labels.shape)}; "
                "they must be uint8 [N, C, H, W] and integers [N]"
            )
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(f"labels: allowed are whole numbers from 0 to {len(class_names) - 1}, one per class")
        resized = np.empty((*pixels.shape[:2], request.resolution, request.resolution), np.uint8)
        _fill(resized, pixels)
        kept = torch.from_numpy(labels.astype(np.int64))
        parts.append(Images(torch.from_numpy(resized), torch.arange(len(kept)), kept))
    train, held = parts[0], parts[1] if len(parts) > 1 else None
    if request.max_images_per_class is not None:
        train = train.take(_limited(train.labels, request.max_images_per_class))
    content = hashlib.sha256(parts[0].pixels.numpy().tobytes() + parts[0].labels.numpy().tobytes())
    return Pool(train, held, tuple(class_names), content.hexdigest()[:16])


def _own_pool(name: str, request: Request) -> Pool:
    """What somebody else's loader returns. Raises DataError where that is no pool of images as asked for."""
    try:
        pool = load(name)(request)
    except UserError as error:
        raise DataError(f"dataset: {name!r}: {error}") from None
    except Exception as error:  # whatever the code of somebody else raises
        raise DataError(f"dataset: {name!r}: {what_happened(error)}") from error
    if not isinstance(pool, Pool):
        raise DataError(f"dataset: {name!r} must return a nas.data.datasets.Pool, not {type(pool).__name__}")
    for part in (pool.images, *([pool.test] if pool.test else [])):
        side, shape = request.resolution, list(part.pixels.shape)
        if part.pixels.dtype != torch.uint8 or shape[2:] != [side, side] or len(shape) != 4:
            raise DataError(
                f"dataset: {name!r} gave pixels {part.pixels.dtype} {shape}; asked for are uint8 [N, C, {side}, {side}]"
            )
    return pool


def load_digits(request: Request) -> Pool:
    """The 1,797 grey 8x8 digits that come with scikit-learn; 300 of them, the same for any seed, are the test part."""

    def build(create):
        pixels, labels = read_digits()
        _fill(create((len(pixels), 1, request.resolution, request.resolution)), pixels[:, None])
        return labels.tolist(), DIGIT_NAMES

    found = cached_images(request.cache_dir, ["digits", request.resolution], build)
    return _pool(request, found, *split_images(_all(found), 1, DIGITS_TEST_IMAGES / len(found.labels), seed=0))


def load_cluttered_digits(request: Request) -> Pool:
    """The digits scattered over larger maps (see `cluttered`), each on several; the test part shows digits of its own.

    Raises DataError for maps that a digit does not fit on.
    """
    side = request.resolution
    if side < SMALLEST:
        raise DataError(f"resolution = {side}: allowed is {SMALLEST} or more for cluttered_digits; 32 and 48 are usual")

    def build(create):
        pixels, labels = read_digits()
        target = create((len(pixels) * CLUTTERED_COPIES, 1, side, side))
        parts = split_rows(torch.from_numpy(labels.astype(np.int64)), DIGITS_TEST_IMAGES / len(labels), seed=0)
        order = []
        for seed, rows in enumerate(part.numpy() for part in parts):  # nothing of the test part is in the other
            start = len(order)
            order += np.repeat(labels[rows], CLUTTERED_COPIES).tolist()
            scatter(pixels[rows], target[start : len(order)], CLUTTERED_COPIES, seed)
        return order, DIGIT_NAMES

    found = cached_images(request.cache_dir, ["cluttered_digits", side, CLUTTERED_COPIES], build)
    images, num_test = _all(found), DIGITS_TEST_IMAGES * CLUTTERED_COPIES
    rows = torch.arange(len(images))
    pool = _pool(request, found, images.take(rows[:-num_test]), images.take(rows[-num_test:]))
    return replace(pool, copies=CLUTTERED_COPIES)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: pixels uint8 [1797, 8, 8] in 0..255, labels uint8 [1797]."""
    spec = find_spec("sklearn")  # its file alone: importing it takes 2 s
    assert spec is not None and spec.origin is not None
    rows = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", dtype=np.uint8, delimiter=",")
    return np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), rows[:, -1]


def load_cifar10(request: Request) -> Pool:
    """CIFAR-10 from its standard Python files in `data_dir`, downloaded where absent."""
    return load_cifar("CIFAR10", request)


def load_cifar100(request: Request) -> Pool:
    """CIFAR-100 from its standard Python files in `data_dir`, downloaded where absent."""
    return load_cifar("CIFAR100", request)


def load_cifar(name: str, request: Request, kind: type | None = None) -> Pool:
    """CIFAR as torchvision's class `name` reads, verifies and downloads it; `kind` replaces that class.

    Without a `data_dir` the files go to the cache folder.
    """
    root = request.data_dir or request.cache_dir

    def part(is_train: bool) -> CachedImages:
        def build(create):
            from torchvision import datasets  # slow to import, and needed once only

            with file_lock(request.cache_dir / "download.lock"):
                try:
                    found = (kind or getattr(datasets, name))(root, train=is_train, download=True)
                except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
                    raise DataError(f"{root}: no files of {name} there, and no download: {error}") from None
            pixels = found.data.transpose(0, 3, 1, 2)
            _fill(create((len(pixels), 3, request.resolution, request.resolution)), pixels)
            return found.targets, found.classes

        return cached_images(request.cache_dir, [name, is_train, request.resolution], build)

    found = part(True)
    return _pool(request, found, _all(found), _all(part(False)) if request.with_test else None)


def load_folder(request: Request) -> Pool:
    """Folders of classes by the rule of `nas.data.images.parts`; the images that evaluate are the test part."""
    if request.data_dir is None:
        raise DataError("data_dir: not given; expected a folder with one folder of images per class")
    parts = list_parts(request.data_dir)
    training, evaluation = parts.training, parts.evaluation
    if not isinstance(training, FolderListing) or not isinstance(evaluation, FolderListing | None):
        raise DataError(f"{request.data_dir}: is for retraining; a proxy needs folders of classes")
    if request.max_images_per_class is not None:
        training = training.take(_limited(torch.tensor(training.labels), request.max_images_per_class).tolist())
    found = cached_folder(request.cache_dir, training, request.resolution)
    test = None
    if request.with_test and evaluation is not None:
        test = _all(cached_folder(request.cache_dir, evaluation, request.resolution))
    return Pool(_all(found), test, found.class_names, found.fingerprint)


DATASETS: dict[str, Callable[[Request], Pool]] = {
    "digits": load_digits,
    "cluttered_digits": load_cluttered_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "imagefolder": load_folder,
}


def split_rows(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows into (kept, held), both sorted; `fraction` of all rows is held, spread evenly over the classes.

    A class of a single row is kept, every other class has rows on both sides. DataError where all are single.
    """
    kept, held, owed = [], [], 0.0
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator("cpu", seed, "split", label))]
        # what rounding took from or gave to one class is settled with the next, so that the total is right
        owed += fraction * len(rows)
        count = min(max(round(owed), min(1, len(rows) - 1)), len(rows) - 1)
        owed -= count
        held.append(rows[:count])
        kept.append(rows[count:])
    if not any(map(len, held)):
        raise DataError("no class has more than one image; expected several, to keep some for validation")
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


def split_images(images: Images, copies: int, fraction: float, seed: int) -> tuple[Images, Images]:
    """Split as `split_rows` does, but with all images of an original, `copies` in a row of the array, on one side."""
    if copies == 1:
        kept, held = split_rows(images.labels, fraction, seed)
        return images.take(kept), images.take(held)
    originals, first = np.unique(images.index.numpy() // copies, return_index=True)
    _, held = split_rows(images.labels[torch.from_numpy(first)], fraction, seed)
    on_held_side = torch.from_numpy(np.isin(images.index.numpy() // copies, originals[held.numpy()]))
    return images.take((~on_held_side).nonzero().flatten()), images.take(on_held_side.nonzero().flatten())


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, over at most STATISTICS_IMAGES evenly spread images."""
    spread = images.pixels[images.index[:: -(-len(images) // STATISTICS_IMAGES)]].double() / 255
    std, mean = torch.std_mean(spread, dim=(0, 2, 3), correction=0)
    return tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())


def _all(found: CachedImages) -> Images:
    return Images(found.pixels, torch.arange(len(found.labels)), found.labels)


def _pool(request: Request, found: CachedImages, images: Images, test: Images | None) -> Pool:
    if request.max_images_per_class is not None:
        images = images.take(_limited(images.labels, request.max_images_per_class))
    return Pool(images, test if request.with_test else None, found.class_names, found.fingerprint)


def _limited(labels: Tensor, limit: int) -> Tensor:
    """Sorted rows with at most `limit` of each class, the same for every seed so that a cache serves all trials."""
    rows = []
    for label in labels.unique().tolist():
        of_class = (labels == label).nonzero().flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=generator("cpu", "limit", label))[:limit]])
    return torch.cat(rows).sort().values


def _fill(target: np.ndarray, pixels: np.ndarray) -> None:
    """Write `pixels` [N, C, h, w] into `target` [N, C, H, W], resized where the sizes differ."""
    for start in range(0, len(pixels), RESIZE_CHUNK):
        chunk = torch.from_numpy(np.ascontiguousarray(pixels[start : start + RESIZE_CHUNK]))
        if chunk.shape[2:] != target.shape[2:]:
            chunk = functional.interpolate(chunk, size=target.shape[2:], mode="bilinear", antialias=True)
        target[start : start + RESIZE_CHUNK] = chunk.numpy()
