"""Preparing images: every kind of damage is found, shards train as the folder does, classes and limits hold."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import processes
from nas.cli import main
from nas.config.sections import RetrainConfig
from nas.data.images.parts import list_parts
from nas.data.images.reading import DataError
from nas.data.images.shards import list_shards
from nas.data.prepare import examine, prepare
from nas.data.streaming import StreamingSource

KINDS = {
    "empty.png": "empty",
    "text.png": "not an image",
    "cut.jpg": "truncated",
    "bomb.png": "bomb",
    "gif.png": "wrong extension",
    "cmyk.jpg": "CMYK",
    "palette.png": "palette",
    "deep.png": "16 bits",
}


def picture(seed: int, side: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side + 8, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes of good images."""
    for part, count in (("train", 8), ("val", 4)):
        for label, name in enumerate("abc"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                path = tmp_path / "images" / part / name / f"{number}.jpg"
                picture(100 * label + number).save(path, quality=95)
    return tmp_path / "images"


def damage(folder: Path) -> None:
    """One file of every kind."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    picture(1).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-400])
    Image.new("1", (10_000, 9_000)).save(folder / "bomb.png")
    picture(2).save(folder / "gif.png", format="GIF")
    picture(3).convert("CMYK").save(folder / "cmyk.jpg")
    picture(4).quantize(8).save(folder / "palette.png")
    Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9) * 800).save(folder / "deep.png")


def test_every_kind_of_damage_is_found(folder):
    damage(folder / "train" / "a")
    summary = prepare(folder, None)
    found = {Path(file["path"]).name: file["kind"] for file in summary["files"]}
    assert found == KINDS and summary["unreadable"] == 4 and summary["images"] == {"train": 32, "val": 12}
    assert examine(folder / "train" / "b" / "0.jpg") is None and summary["shards"] == []


def test_too_much_damage_writes_nothing(folder, tmp_path, capsys, monkeypatch):
    damage(folder / "train" / "a")
    arguments = ["nas", "prepare", str(folder), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    shown = capsys.readouterr()
    assert stop.value.code == 1 and "4 unreadable images" in shown.err and "cut.jpg: truncated" in shown.out
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("sys.argv", [*arguments, "--max-bad", "4", "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and json.loads(capsys.readouterr().out)["unreadable"] == 4
    assert len(list_parts(tmp_path / "out").training) == 28


def prepare_slowly(folder: Path, output: Path) -> None:
    prepare(folder, output, images_per_shard=1)


def test_one_that_was_killed_is_run_again(folder, tmp_path):
    """What it left is in nobody's way: the shards are those of an undisturbed one."""
    begun = processes.start(prepare_slowly, folder, tmp_path / "shards", daemon=False)
    while not list(tmp_path.glob("shards.partial/*.tar")):
        assert begun.is_alive()
        time.sleep(0.001)
    processes.kill(begun)
    assert not (tmp_path / "shards").exists()
    prepare(folder, tmp_path / "shards", images_per_shard=1)
    prepare(folder, tmp_path / "whole", images_per_shard=1)
    again, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("shards", "whole")
    )
    assert again == whole and not list(tmp_path.glob("shards.*"))


def test_shards_train_as_the_folder_does(folder, tmp_path):
    """The images of an epoch and of an evaluation, with their classes, are the folder's: none lost, none twice."""
    output, cache = tmp_path / "shards", tmp_path / "cache"
    summary = prepare(folder, output, images_per_shard=10)
    assert [name for name in summary["shards"]] == [f"train-00000{i}.tar" for i in range(3)] + [
        f"val-00000{i}.tar" for i in range(2)
    ]
    config = RetrainConfig(resolution=16, batch_size=7, augment="none")
    options = {"seed": 0, "device": "cpu", "num_workers": 0, "cache_dir": cache}
    files, shards = (StreamingSource(root, config, **options) for root in (folder, output))
    assert shards.class_names == files.class_names == ("a", "b", "c") and shards.num_validation == 12

    def pairs(batches) -> list:
        flat = [
            (image.sum().item(), label)
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        ]
        return sorted((round(total, 3), int(label)) for total, label in flat)

    assert pairs(shards.train_batches(0)) == pairs(files.train_batches(0))
    assert pairs(shards.validation_batches()) == pairs(files.validation_batches())
    again = StreamingSource(output, config, **options)  # from the kept index
    assert again.fingerprint == shards.fingerprint != files.fingerprint
    assert [torch.equal(a, b) for (a, _), (b, _) in zip(again.train_batches(1), shards.train_batches(1), strict=True)]


def test_large_images_are_scaled_down_and_small_jpegs_kept(folder, tmp_path):
    picture(7, side=300).save(folder / "train" / "a" / "large.png")
    prepare(folder, tmp_path / "out", shorter_side=100)
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        contents = {archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert (folder / "train" / "b" / "3.jpg").read_bytes() in contents
    listing = list_parts(tmp_path / "out").training
    sizes = {Image.open(listing.open(row)).size for row in range(len(listing))}
    assert sizes == {(48, 40), (round(308 * 100 / 300), 100)}


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    import io

    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    "members, classes, message",
    [
        ({"1.jpg": b"x"}, None, "1 images have no .cls beside them, 1 for one"),
        ({"1.jpg": b"x", "1.cls": b"many"}, None, "unreadable shard"),
        ({"1.txt": b"x"}, None, "no images"),
        ({"1.jpg": b"x", "1.cls": b"-1"}, None, "a class below 0"),
        ({"1.jpg": b"x", "1.cls": b"4"}, '["a"]', "at least 5 class names"),
        ({"1.jpg": b"x", "1.cls": b"4"}, "[", "not JSON"),
    ],
)
def test_impossible_shards_are_refused(tmp_path, members, classes, message):
    write_tar(tmp_path / "train-0.tar", members)
    if classes:
        (tmp_path / "classes.json").write_text(classes)
    with pytest.raises(DataError, match=message):
        list_shards(tmp_path, [tmp_path / "train-0.tar"])


def test_bad_images_are_left_out_up_to_the_limit(folder, tmp_path):
    """One of 25 training images is cut: an error by default, with a limit it is left out, listed, and nothing else."""
    picture(9).save(folder / "train" / "a" / "cut.jpg")
    (folder / "train" / "a" / "cut.jpg").write_bytes((folder / "train" / "a" / "cut.jpg").read_bytes()[:-400])
    options = {"seed": 0, "device": "cpu", "num_workers": 0}
    strict = StreamingSource(folder, RetrainConfig(resolution=16, batch_size=6, augment="none"), **options)
    with pytest.raises(DataError, match=r"cut\.jpg: unreadable image"):
        list(strict.train_batches(0))
    lenient = RetrainConfig(resolution=16, batch_size=6, augment="none", max_bad_images=1)
    source = StreamingSource(folder, lenient, **options)
    for epoch in range(2):
        assert sum(len(labels) for _, labels in source.train_batches(epoch)) == 24
    assert len(source.bad_images) == 1 and "cut.jpg" in next(iter(source.bad_images))


@pytest.mark.parametrize("policy", ["rand-m10-n8-p1-inc1", "original"])
def test_policies_work_at_their_highest_magnitude(folder, policy):
    """Posterize is then asked to keep no bit at all, which Pillow does not do."""
    config = RetrainConfig(resolution=16, batch_size=6, augment="imagenet", auto_augment=policy)
    source = StreamingSource(folder, config, seed=0, device="cpu", num_workers=0)
    assert sum(len(labels) for _, labels in source.train_batches(0)) == 24


@pytest.mark.parametrize("repeats", [1, 3])
def test_imagenet_augmentation_is_keyed_by_image(folder, repeats):
    """timm's crops, RandAugment and erasing: equal for any number of workers and start; new each epoch."""
    config = RetrainConfig(
        resolution=24,
        batch_size=6,
        augment="imagenet",
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="random",
        erasing=0.5,
        repeats=repeats,
    )

    def images(epoch: int, start: int = 0, workers: int = 0) -> list[torch.Tensor]:
        source = StreamingSource(folder, config, seed=1, device="cpu", num_workers=workers)
        return [image for batch, _ in source.train_batches(epoch, start) for image in batch]

    first = images(0)
    assert all(torch.equal(a, b) for a, b in zip(first, images(0, workers=2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[6 * 2 :], images(0, start=2), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, images(1), strict=True))
    assert len({image.sum().item() for image in first}) == len(first) == 24
