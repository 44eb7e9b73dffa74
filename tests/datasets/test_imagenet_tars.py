"""ImageNet's tars as they are downloaded: read in place, they train and evaluate as the unpacked folders do."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from test_parts import CONFIG, WNIDS, write_devkit, write_imagenet
from test_prepare import picture

from nas.data.images.parts import list_evaluation, list_parts
from nas.data.images.reading import DataError
from nas.data.images.shards import ShardListing
from nas.data.prepare import prepare
from nas.data.streaming import StreamingSource


def packed(path: Path, files: list[Path]) -> Path:
    """In another order than that of their names, as the authors' are, with what is no image."""
    with tarfile.open(path, "w") as archive:
        for name, kind in (("folder.JPEG", tarfile.DIRTYPE), ("README", tarfile.REGTYPE)):
            other = tarfile.TarInfo(name)
            other.type = kind
            archive.addfile(other)
        for file in reversed(sorted(files)):
            archive.add(file, file.name)
    return path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("unpacked")
    write_devkit(root, write_imagenet(root))
    for seed, wnid in enumerate(WNIDS):
        for number in range(2, 6):
            picture(10 * seed + number).save(root / "train" / wnid / f"{wnid}_{number}.JPEG", quality=95)
    return root


@pytest.fixture
def tars(unpacked, tmp_path) -> Path:
    """The three files that one downloads."""
    root = tmp_path / "tars"
    root.mkdir()
    classes = [packed(tmp_path / f"{wnid}.tar", [*(unpacked / "train" / wnid).iterdir()]) for wnid in WNIDS]
    packed(root / "ILSVRC2012_img_train.tar", classes)
    packed(root / "ILSVRC2012_img_val.tar", [*(unpacked / "val").iterdir()])
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(unpacked / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    return root


def batches(root: Path, cache: Path | None = None) -> list:
    source = StreamingSource(root, CONFIG, seed=0, device="cpu", num_workers=0, cache_dir=cache)
    return [*source.train_batches(0), *source.validation_batches()]


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, z) and torch.equal(y, t) for (x, y), (z, t) in zip(first, second, strict=True)
    )


def test_tars_train_and_evaluate_as_the_folders_do(unpacked, tars, tmp_path):
    """Also from the kept index; with the outer tar unpacked; and with the validation images alone still packed."""
    expected = batches(unpacked)
    assert sum(len(labels) for _, labels in expected) == 15 + 5
    for _ in range(2):
        assert same(batches(tars, tmp_path / "cache"), expected)
    listing = list_parts(tars).training
    assert isinstance(listing, ShardListing) and listing.class_names == WNIDS
    assert [listing.file_name(row) for row in (0, 14)] == [f"{WNIDS[0]}_1.JPEG", f"{WNIDS[2]}_5.JPEG"]
    assert (
        listing.file_name(9) == f"{WNIDS[1]}_5.JPEG"
        and listing.open(9).getvalue() == (unpacked / "train" / WNIDS[1] / f"{WNIDS[1]}_5.JPEG").read_bytes()
    )
    (tars / "train").mkdir()
    with tarfile.open(tars / "ILSVRC2012_img_train.tar") as archive:
        archive.extractall(tars / "train")
    (tars / "ILSVRC2012_img_train.tar").unlink()
    assert same(batches(tars), expected)
    shutil.rmtree(tars / "train")
    shutil.copytree(unpacked / "train", tars / "train")
    assert same(batches(tars), expected)
    evaluated, _ = list_evaluation(tars)
    assert [evaluated.file_name(row) for row in (0, 4)] == [
        "ILSVRC2012_val_00000001.JPEG",
        "ILSVRC2012_val_00000005.JPEG",
    ]


def test_tars_are_looked_through_and_made_smaller(tars, tmp_path):
    """As folders are, with the same shards."""
    summary = prepare(tars, tmp_path / "shards", shorter_side=16)
    assert summary["images"] == {"train": 15, "val": 5} and summary["unreadable"] == 0
    wrong = [finding["path"] for finding in summary["files"]]
    assert wrong == []
    assert len(list_parts(tmp_path / "shards").training) == 15


def test_what_is_wrong_in_a_tar_is_named(tars, unpacked, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tars, broken)
    cut = unpacked / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    with tarfile.open(tmp_path / f"{WNIDS[0]}.tar", "w") as archive:
        member = tarfile.TarInfo(cut.name)
        member.size = 100
        archive.addfile(member, io.BytesIO(cut.read_bytes()[:100]))
    packed(broken / "ILSVRC2012_img_train.tar", [tmp_path / f"{wnid}.tar" for wnid in WNIDS])
    (finding,) = [found for found in prepare(broken, None)["files"] if found["kind"] == "truncated"]
    assert finding["path"] == str(broken / cut.name)
    (broken / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"devkit_t12.tar.gz: does not name the classes of the validation images"):
        list_parts(broken)
    (broken / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(
        DataError, match=r"img_val.tar: no LOC_val_solution.csv, ILSVRC2012_devkit_t12.tar.gz or folder"
    ):
        list_parts(broken)
    (broken / "ILSVRC2012_img_train.tar").write_bytes(b"no archive at all" * 99)
    with pytest.raises(DataError, match=r"img_train.tar: unreadable tar of ImageNet"):
        list_parts(broken)
