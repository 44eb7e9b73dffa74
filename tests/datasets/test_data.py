"""Data sets: what is loaded, how it is split, batches keyed by seed and step, the cache that processes share."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import processes
from helpers.digit_images import PER_CLASS, same
from nas.config.sections import ProxyConfig, RetrainConfig
from nas.data import datasets as data
from nas.data.augment import AUGMENTATIONS, augment
from nas.data.batches import MemorySource, ahead, num_steps
from nas.data.datasets import DATASETS, load_dataset, split_rows
from nas.data.images import image_cache
from nas.data.images.folders import list_folder
from nas.data.images.image_cache import cached_folder
from nas.data.images.reading import DataError, read_image
from nas.data.randomness import generator
from nas.data.sources import open_source
from nas.data.streaming import StreamingSource


def test_digits_are_scikit_learns(cache):
    from sklearn.datasets import load_digits

    dataset = load_dataset(ProxyConfig(resolution=8), 0, cache)
    raw, labels = load_digits(return_X_y=True)
    for part in (dataset.train, dataset.validation):
        rows = part.index.numpy()
        assert (part.labels.numpy() == np.asarray(labels)[rows]).all()
        scaled = part.pixels[part.index].numpy().reshape(-1, 64) * (16 / 255)
        assert np.abs(scaled - np.asarray(raw)[rows]).max() < 0.05
    assert (dataset.num_classes, dataset.in_channels) == (10, 1)


def test_search_never_sees_the_test_digits(cache):
    """What 20 seeds use, and what a retraining trains on, leaves the same 300 images out, all classes among them."""
    used = set()
    for seed in range(20):
        dataset = load_dataset(ProxyConfig(resolution=8), seed, cache)
        used |= set(dataset.train.index.tolist()) | set(dataset.validation.index.tolist())
    retrain = load_dataset(RetrainConfig(dataset="digits", resolution=8), 5, cache)
    test = set(retrain.validation.index.tolist())
    assert len(test) == 300 and not used & test
    assert used == set(retrain.train.index.tolist()) and len(used) == 1497
    assert retrain.validation.labels.bincount().min() >= 28


def test_cluttered_digits_show_each_digit_on_one_side_only(cache):
    """Three maps of every digit, with the digit on them; those of a digit are trained with or judged by, never both."""
    plain, _ = data.read_digits()
    request = {"dataset": "cluttered_digits", "resolution": 32}
    for limit in (None, 40):
        dataset = load_dataset(ProxyConfig.model_validate(request | {"max_images_per_class": limit}), 2, cache)
        train, validation = (set((part.index // 3).tolist()) for part in (dataset.train, dataset.validation))
        assert not train & validation and 0.15 < len(validation) / len(train | validation) < 0.25
        assert dataset.validation.labels.bincount().min() >= 4
    retrain = load_dataset(RetrainConfig.model_validate(request), 5, cache)
    assert (len(retrain.train), len(retrain.validation)) == (3 * 1497, 3 * 300)
    assert not set((retrain.validation.index // 3).tolist()) & (train | validation)
    # the mean digit of the label's class, 16 pixels wide, has a better place on most maps than that of any other class
    maps = retrain.validation.pixels[retrain.validation.index[:60]].float() / 255
    _, labels = data.read_digits()
    means = np.stack([plain[labels == digit].mean(0) for digit in range(10)]).astype(np.float32)
    templates = torch.nn.functional.interpolate(torch.from_numpy(means)[:, None], (16, 16), mode="bilinear")
    templates = templates - templates.mean((2, 3), keepdim=True)
    templates = templates / templates.norm(dim=(2, 3), keepdim=True)
    guessed = torch.nn.functional.conv2d(maps, templates).amax((2, 3)).argmax(1)
    assert (guessed == retrain.validation.labels[:60]).float().mean() > 0.4


def test_cluttered_digits_are_the_same_everywhere(tmp_path):
    """Two machines that never met train with the same maps."""
    config = ProxyConfig.model_validate({"dataset": "cluttered_digits", "resolution": 32})
    first, second = (load_dataset(config, 0, tmp_path / name) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint and torch.equal(first.train.pixels, second.train.pixels)
    draw = np.random.RandomState(0)  # its numbers are fixed for good
    assert draw.randint(0, 1000, 4).tolist() == [684, 559, 629, 192]


def test_a_map_too_small_for_a_digit_is_refused(cache):
    config = ProxyConfig.model_validate({"dataset": "cluttered_digits", "resolution": 16})
    with pytest.raises(DataError, match="resolution = 16: allowed is 24 or more for cluttered_digits"):
        load_dataset(config, 0, cache)


def test_split_is_fixed_by_the_seed_and_stratified(cache):
    first, again, other = (load_dataset(ProxyConfig(resolution=8), seed, cache) for seed in (3, 3, 4))
    assert torch.equal(first.train.index, again.train.index) and first.fingerprint == again.fingerprint
    assert not torch.equal(first.train.index, other.train.index) and first.fingerprint != other.fingerprint
    assert not set(first.train.index.tolist()) & set(first.validation.index.tolist())
    shares = first.validation.labels.bincount() / (first.validation.labels.bincount() + first.train.labels.bincount())
    assert (shares - 0.2).abs().max() < 0.01
    assert len(first.validation) == round(0.2 * 1497)


def test_split_keeps_single_images_and_totals():
    labels = torch.tensor([0] + [1] * 3 + [2] * 10 + [3] * 2)
    kept, held = split_rows(labels, 0.25, seed=0)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(16)) and len(held) == 4
    assert labels[kept].bincount().min() >= 1 and 0 not in labels[held].tolist()
    with pytest.raises(DataError, match="no class has more than one image"):
        split_rows(torch.arange(5), 0.5, seed=0)
    many = torch.arange(200).repeat(3)  # three images in each of 200 classes: the rounding must not add up
    assert len(split_rows(many, 0.1, seed=0)[1]) == 200  # one of each at least
    assert len(split_rows(many, 0.5, seed=0)[1]) == 300


def test_max_images_per_class(cache, digits_folder):
    limited = load_dataset(ProxyConfig(resolution=8, max_images_per_class=20), 0, cache)
    total = limited.train.labels.bincount() + limited.validation.labels.bincount()
    assert total.tolist() == [20] * 10
    other = load_dataset(ProxyConfig(resolution=8, max_images_per_class=20), 1, cache)
    everything = lambda d: sorted([*d.train.index.tolist(), *d.validation.index.tolist()])  # noqa: E731
    assert everything(limited) == everything(other)
    folder = ProxyConfig(dataset="imagefolder", data_dir=str(digits_folder), resolution=16, max_images_per_class=5)
    assert len(load_dataset(folder, 0, cache).train.pixels) == 20  # nothing else is decoded


def test_channel_statistics_normalise(cache):
    source = open_source(ProxyConfig(augment="none", resolution=16), seed=0, device="cpu", cache_dir=cache)
    images = torch.cat([images for images, _ in source.train_batches(0)])
    assert abs(images.mean()) < 1e-4 and abs(images.std() - 1) < 1e-3


@pytest.mark.parametrize("size", [1, 7, 64, 1198, 5000])
def test_an_epoch_uses_every_image_once_in_even_batches(cache, size):
    config = ProxyConfig(augment="none", resolution=8, batch_size=size)
    source = open_source(config, seed=0, device="cpu", cache_dir=cache)
    sizes, sums = [], []
    for images, labels in source.train_batches(2):
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        sizes.append(len(images))
        sums.append(images.sum((1, 2, 3)))
    assert sum(sizes) == source.num_train == 1198 and max(sizes) <= size and max(sizes) - min(sizes) <= 1
    assert len(sizes) == source.steps_per_epoch == num_steps(1198, size)
    again = torch.cat([images.sum((1, 2, 3)) for images, _ in source.train_batches(3)])
    first = torch.cat(sums)
    assert torch.allclose(first.sort().values, again.sort().values) and not torch.equal(first, again)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_batches_are_keyed_by_seed_epoch_and_step(cache, kind):
    config = ProxyConfig(augment=kind, resolution=16, batch_size=300)

    def batches(seed, epoch, start=0):
        torch.manual_seed(int(time.time()))  # the global generator has no say
        source = MemorySource(load_dataset(config, 0, cache), config, seed=seed, device="cpu")
        return list(source.train_batches(epoch, start))

    whole = batches(0, 1)
    assert same(whole, batches(0, 1)) and same(whole[2:], batches(0, 1, start=2))
    assert not same(whole, batches(1, 1)) and not same(whole, batches(0, 2))
    state = torch.get_rng_state()
    list(MemorySource(load_dataset(config, 0, cache), config, seed=0, device="cpu").train_batches(0))
    assert torch.equal(state, torch.get_rng_state())


def test_ahead_keeps_order_and_is_one_ahead():
    done = []
    results = ahead(lambda item: done.append(item) or 10 * item, range(4))
    for number, result in enumerate(results):
        expected, end = min(number + 2, 4), time.monotonic() + 30
        while len(done) < expected and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.05)  # no item more is begun
        assert result == 10 * number and len(done) == expected
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, [1, 0]))


def test_shift_moves_and_mirrors_whole_images():
    images = torch.arange(1, 257, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(400, 1, 1, 1)
    moved = augment(images, "shift_flip", generator("cpu", 0))
    assert moved.dtype == torch.uint8 and moved.shape == images.shape
    seen = set()
    for image in moved[:, 0]:
        options = {
            (dy, dx, flip)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            for flip in (False, True)
            if torch.equal(image, _shifted(images[0, 0], dy, dx, flip))
        }
        assert len(options) == 1  # an exact shift, and only one explains it
        seen |= options
    assert len(seen) == 50  # all shifts, mirrored and not


def _shifted(image, dy, dx, flip):
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    cut = padded[2 + dy : 18 + dy, 2 + dx : 18 + dx]
    return cut.flip(1) if flip else cut


def test_crop_scales_parts_of_the_image():
    ramp = torch.arange(32, dtype=torch.float32).repeat(32, 1)[None, None].repeat(500, 1, 1, 1)
    cropped = augment(ramp.to(torch.uint8), "crop_flip", generator("cpu", 0))[:, 0]
    assert cropped.min() >= 0 and cropped.max() <= 31
    assert torch.allclose(cropped, cropped[:, :1].expand_as(cropped), atol=1e-3)  # columns stay columns
    slope = (cropped[:, 0, 20] - cropped[:, 0, 12]) / 8  # share of the width, negative where mirrored
    assert 0.4 < (slope < 0).float().mean() < 0.6
    assert 0.4 < slope.abs().min() < 0.55 and 0.95 < slope.abs().max() <= 1.01


def test_crops_have_the_published_areas_and_ratios_and_lie_anywhere():
    """Read off two ramps, one along each axis: a quarter to all of the image, 3:4 to 4:3, inside it."""
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1)
    cropped = augment(torch.stack((ramp, ramp.T))[None].repeat(2000, 1, 1, 1), "crop_flip", generator("cpu", 0))
    width = (cropped[:, 0, 32, 40] - cropped[:, 0, 32, 24]).abs() / 16
    height = (cropped[:, 1, 40, 32] - cropped[:, 1, 24, 32]) / 16
    whole = (width < 0.99) & (height < 0.99)  # a side that would be longer than the image is as long as it
    area, ratio = (width * height)[whole], (width / height)[whole]
    assert 0.24 < area.min() < 0.26 and 0.9 < area.max() < 1 and area.mean() == pytest.approx(0.57, abs=0.03)
    assert 0.74 < ratio.min() < 0.76 and 1.31 < ratio.max() < 1.35
    assert ratio.log().mean() == pytest.approx(0, abs=0.02)
    middles = cropped[:, :, 32, 32] / 63 - 0.5
    room = torch.stack((1 - width, 1 - height), 1) / 2
    assert (middles.abs() <= room + 0.02).all()
    share = (middles / room)[whole & (room.min(1).values > 0.05)]
    assert share.mean(0).abs().max() < 0.1 and share.std(0).min() > 0.5 and abs(share.T.corrcoef()[0, 1]) < 0.1


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="digits, cifar10, cifar100, imagefolder"):
        load_dataset(ProxyConfig.model_construct(dataset="mnist"), 0, Path("unused"))
    with pytest.raises(ValueError, match="none, shift, shift_flip, crop_flip"):
        augment(torch.zeros(1, 1, 8, 8), "rotate", generator("cpu", 0))


# --- CIFAR files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cifar(tmp_path_factory) -> tuple[Path, type, np.ndarray]:
    """CIFAR-10's own file format with 60 + 20 images, and torchvision's class told the hashes of these files."""
    from torchvision.datasets import CIFAR10  # here, so that processes which import this module start fast

    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (80, 3072), dtype=np.uint8)
    contents = {
        f"data_batch_{n + 1}": {"data": pixels[12 * n : 12 * n + 12], "labels": [i % 3 for i in range(12)]}
        for n in range(5)
    }
    contents["test_batch"] = {"data": pixels[60:], "labels": [i % 3 for i in range(20)]}
    contents["batches.meta"] = {"label_names": ["cat", "dog", "owl"]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    hashes = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}

    facts = {
        "url": "http://127.0.0.1:9/nothing-there",
        "train_list": [[name, value] for name, value in hashes.items() if name.startswith("data")],
        "test_list": [["test_batch", hashes["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": hashes["batches.meta"]},
    }
    small = type("SmallCIFAR", (CIFAR10,), facts)
    return root, small, pixels.reshape(-1, 3, 32, 32)


def request(root: Path, cache_dir: Path, **changes) -> data.Request:
    asked = {"resolution": 32, "data_dir": root, "cache_dir": cache_dir, "max_images_per_class": None}
    return data.Request(**{**asked, "with_test": False, **changes})


def test_cifar_train_files_are_read_and_kept(cifar, tmp_path):
    root, kind, pixels = cifar
    pool = data.load_cifar("CIFAR10", request(root, tmp_path), kind)
    assert torch.equal(pool.images.pixels, torch.from_numpy(pixels[:60])) and pool.class_names == ("cat", "dog", "owl")
    assert pool.images.labels.tolist() == [i % 3 for i in range(12)] * 5 and pool.test is None
    # a second load needs neither the files nor torchvision's class
    cached = data.load_cifar("CIFAR10", request(tmp_path / "gone", tmp_path))
    assert torch.equal(cached.images.pixels, pool.images.pixels)
    small = data.load_cifar("CIFAR10", request(root, tmp_path, resolution=16, max_images_per_class=4), kind)
    assert small.images.pixels.shape == (60, 3, 16, 16) and small.images.labels.bincount().tolist() == [4, 4, 4]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(DataError, match=r"results/\.cache: decoded images cannot be kept there: Not a directory"):
        load_dataset(ProxyConfig(resolution=8), 0, tmp_path / "results/.cache")


def test_cifar_test_file_only_for_a_retraining(cifar, tmp_path):
    root, kind, pixels = cifar
    pool = data.load_cifar("CIFAR10", request(root, tmp_path, with_test=True), kind)
    assert pool.test is not None and torch.equal(pool.test.pixels, torch.from_numpy(pixels[60:]))


def test_cifar_absent_or_damaged_names_the_folder(cifar, tmp_path):
    root, kind, _ = cifar
    with pytest.raises(DataError, match=str(tmp_path / "empty")):
        data.load_cifar("CIFAR10", request(tmp_path / "empty", tmp_path), kind)
    damaged = tmp_path / "damaged"
    shutil.copytree(root, damaged)
    batch = damaged / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=str(damaged)):
        data.load_cifar("CIFAR10", request(damaged, tmp_path), kind)
    assert not list(tmp_path.glob("images-*/"))


# --- image folders ----------------------------------------------------------------------------------------------------


def test_folder_is_decoded_as_pillow_does(digits_folder, tmp_path):
    config = ProxyConfig(dataset="imagefolder", data_dir=str(digits_folder), resolution=16)
    dataset = load_dataset(config, 0, tmp_path)
    assert (dataset.num_classes, dataset.in_channels) == (4, 3)
    assert dataset.class_names == ("class0", "class1", "class2", "class3")
    assert len(dataset.train) + len(dataset.validation) == 4 * PER_CLASS  # val/ stays untouched
    listing = list_folder(digits_folder / "train")
    for row in (0, 17, 47):
        image = Image.open(listing.root / listing.paths[row]).convert("RGB").resize((19, 16), Image.Resampling.BILINEAR)
        expected = np.asarray(image.crop((2, 0, 18, 16))).transpose(2, 0, 1)
        assert (dataset.train.pixels[row].numpy() == expected).all()
        assert listing.paths[row].startswith(f"class{listing.labels[row]}")
    retrain = load_dataset(RetrainConfig(resolution=16), 0, tmp_path, data_dir=digits_folder)
    assert (len(retrain.train), len(retrain.validation)) == (48, 12)


def test_cache_follows_the_files(digits_folder, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(digits_folder / "train", root)
    first = cached_folder(tmp_path / "c", list_folder(root), 8)
    unchanged = cached_folder(tmp_path / "c", list_folder(root), 8)
    assert first.fingerprint == unchanged.fingerprint and len(list((tmp_path / "c").glob("images-*/"))) == 1
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "class0" / "0.png")
    changed = cached_folder(tmp_path / "c", list_folder(root), 8)
    assert changed.fingerprint != first.fingerprint
    row = list_folder(root).paths.index("class0/0.png")
    assert changed.pixels[row, 0].min() == 255 and changed.pixels[row, 1].max() == 0
    assert cached_folder(tmp_path / "c", list_folder(root), 9).pixels.shape[2:] == (9, 9)


def test_unreadable_images_are_named(digits_folder, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(digits_folder / "train", root)
    (root / "class0" / "1.png").write_bytes(b"")
    whole = (root / "class1" / "2.png").read_bytes()
    (root / "class1" / "2.png").write_bytes(whole[: len(whole) // 2])
    (root / "class2" / "3.png").write_text("not an image")
    with pytest.raises(DataError, match=r"3 unreadable images: .*class0/1.png.*class1/2.png.*class2/3.png"):
        cached_folder(tmp_path / "c", list_folder(root), 8)
    assert not list((tmp_path / "c").glob("images-*/"))
    config = RetrainConfig(resolution=16, batch_size=64)
    for workers in (0, 1):
        source = StreamingSource(root, config, seed=0, device="cpu", num_workers=workers)
        with pytest.raises(DataError, match=r"^\S+\.png: unreadable image"):
            list(source.train_batches(0))


def test_unusual_image_modes(tmp_path):
    value = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(value).save(tmp_path / "grey.png")
    Image.fromarray(value.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(value).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.stack([value] * 4, -1), "RGBA").save(tmp_path / "alpha.png")
    for path in tmp_path.iterdir():
        decoded = np.asarray(read_image(path, 8))
        assert decoded.shape == (8, 8, 3) and np.abs(decoded[:, :, 0].astype(int) - value).max() <= 1, path.name
    Image.fromarray(np.zeros((8, 8, 4), np.uint8), "CMYK").save(tmp_path / "print.jpg")
    assert np.asarray(read_image(tmp_path / "print.jpg", 8)).min() > 250


@pytest.mark.parametrize("kind", ["absent", "empty", "one_class", "no_images"])
def test_wrong_folders_are_named(tmp_path, kind):
    root = tmp_path / kind
    for name in {"absent": [], "empty": ["."], "one_class": ["a"], "no_images": ["a", "b"]}[kind]:
        (root / name).mkdir(parents=True)
    config = ProxyConfig(dataset="imagefolder", data_dir=str(root))
    with pytest.raises(DataError, match=str(root)) as error:
        load_dataset(config, 0, tmp_path / "c")
    assert "expected" in str(error.value) and "\n" not in str(error.value)


def test_image_folder_without_a_path(tmp_path):
    for call in (
        lambda: load_dataset(ProxyConfig(dataset="imagefolder"), 0, tmp_path),
        lambda: open_source(RetrainConfig(), seed=0, device="cpu", cache_dir=tmp_path),
    ):
        with pytest.raises(DataError, match="data_dir: not given"):
            call()


def test_differing_evaluation_classes_are_named(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    (tmp_path / "d" / "val" / "class3").rename(tmp_path / "d" / "val" / "other")
    with pytest.raises(DataError, match=r"val: 1 classes are not among the 4 trained ones \(class0, .*\): other"):
        open_source(RetrainConfig(), seed=0, device="cpu", cache_dir=tmp_path, data_dir=tmp_path / "d")


def build(root: Path, cache_dir: Path, log: Path, result: Path, slow: float) -> None:
    read = image_cache.read_image

    def slowly(path, shorter_side):
        with log.open("a") as file:
            file.write(f"{path}\n")
        time.sleep(slow)
        return read(path, shorter_side)

    image_cache.read_image = slowly
    result.write_text(str(int(cached_folder(cache_dir, list_folder(root), 8).pixels.sum())))


def test_cache_is_built_once_and_survives_a_kill(digits_folder, tmp_path):
    """A builder is killed half-way; of two that follow together one builds, from the start, and both see the same."""
    root, log = digits_folder / "train", tmp_path / "log"
    killed = processes.start(build, root, tmp_path / "c", log, tmp_path / "none", 0.2)
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert killed.is_alive()
        time.sleep(0.02)
    processes.kill(killed)
    assert list((tmp_path / "c").glob("*.partial")) and not list((tmp_path / "c").glob("images-????????????????"))
    log.unlink()
    results = [tmp_path / "first", tmp_path / "second"]
    for process in [processes.start(build, root, tmp_path / "c", log, result, 0.01) for result in results]:
        processes.finish(process)
    expected = int(cached_folder(tmp_path / "other", list_folder(root), 8).pixels.sum())
    assert [int(result.read_text()) for result in results] == [expected, expected]
    assert sorted(log.read_text().splitlines()) == sorted(str(root / path) for path in list_folder(root).paths)


def test_every_dataset_keeps_the_contract(cifar, digits_folder, tmp_path, monkeypatch):
    """Shapes, dtypes, disjoint parts, fixed by the seed: for every entry of DATASETS."""
    root, kind, _ = cifar
    cifar_loader = data.load_cifar
    monkeypatch.setattr(data, "load_cifar", lambda name, asked: cifar_loader(name, asked, kind))
    folders = {
        "digits": None,
        "cluttered_digits": None,
        "cifar10": str(root),
        "cifar100": str(root),
        "imagefolder": str(digits_folder),
    }
    assert set(folders) == set(DATASETS)
    for name, folder in folders.items():
        config = ProxyConfig.model_validate({"dataset": name, "data_dir": folder, "resolution": 24})
        dataset = load_dataset(config, 1, tmp_path)
        for part in (dataset.train, dataset.validation):
            assert part.pixels.dtype == torch.uint8 and part.pixels.shape[1:] == (dataset.in_channels, 24, 24)
            assert len(part.index) == len(part.labels) == len(part) > 0
            assert part.labels.min() >= 0 and part.labels.max() < dataset.num_classes == len(dataset.class_names)
        assert not set(dataset.train.index.tolist()) & set(dataset.validation.index.tolist())
        assert len(dataset.mean) == len(dataset.std) == dataset.in_channels
        assert load_dataset(config, 1, tmp_path).fingerprint == dataset.fingerprint
