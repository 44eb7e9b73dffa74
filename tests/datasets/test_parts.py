"""Which images train and which evaluate: names of parts, what is scored, what is left out and said, links."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_prepare import picture

from nas.config.sections import RetrainConfig
from nas.data.images.folders import FolderListing, list_folder
from nas.data.images.parts import Asked, list_evaluation, list_parts, of_classes
from nas.data.images.reading import DataError
from nas.data.prepare import prepare
from nas.data.streaming import StreamingSource

CLASSES = "abc"
CONFIG = RetrainConfig(resolution=16, batch_size=6, augment="none")


def write_part(root: Path, count: int, classes: str = CLASSES) -> Path:
    """`count` images of each class."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * label + number).save(root / name / f"{number}.jpg")
    return root


@pytest.mark.parametrize(
    "training, evaluation",
    [
        ("train", "val"),
        ("train", "validation"),
        ("train", "valid"),
        ("train", "eval"),
        ("train", "evaluation"),
        ("train", "test"),
        ("training", "validation"),
        ("Train", "Val"),
        ("TRAIN", "Testing"),
    ],
)
def test_parts_have_timms_names_in_any_case(tmp_path, training, evaluation):
    write_part(tmp_path / training, 3)
    write_part(tmp_path / evaluation, 2)
    found = list_parts(tmp_path)
    assert found.training.class_names == tuple(CLASSES) and found.evaluation is not None
    assert (len(found.training), len(found.evaluation)) == (9, 6)
    assert len(list_evaluation(tmp_path)[0]) == 6
    said = [note for note in found.notes if "evaluated on" in note]
    assert said == ([f"{tmp_path}: evaluated on {evaluation}"] if evaluation.lower() != "val" else [])


def test_val_comes_before_test(tmp_path):
    for name, count in (("train", 3), ("test", 1), ("valid", 2)):
        write_part(tmp_path / name, count)
    found = list_parts(tmp_path)
    assert found.evaluation is not None and len(found.evaluation) == 6


@pytest.mark.parametrize(
    "names, message",
    [
        (["train2017", "val2017"], "train2017, val2017: looks like a part of the images and no class"),
        (["training_set", "cats"], "training_set: looks like a part"),
        (["train", "val", "validation"], "val and validation stand for the same part"),
        (["train", "Train"], "stand for the same part"),
    ],
)
def test_what_looks_like_a_part_is_never_a_class(tmp_path, names, message):
    for name in names:
        write_part(tmp_path / name, 1)
    for find in (list_parts, list_evaluation):
        with pytest.raises(DataError, match=message):
            find(tmp_path)


@pytest.mark.parametrize("name", ["train_station", "valley", "testudo", "evaluator"])
def test_classes_that_begin_like_parts_are_classes(tmp_path, name):
    write_part(tmp_path / "two", 2)
    (tmp_path / "two" / name).mkdir()
    picture(0).save(tmp_path / "two" / name / "0.png")
    assert name in list_parts(tmp_path / "two").training.class_names


def test_a_class_may_be_called_train_inside_a_part(tmp_path):
    write_part(tmp_path / "train", 2)
    shutil.copytree(tmp_path / "train" / "a", tmp_path / "train" / "train")
    write_part(tmp_path / "val", 1)
    assert list_parts(tmp_path).training.class_names == ("a", "b", "c", "train")


def test_what_is_held_out_is_said(tmp_path):
    source = StreamingSource(write_part(tmp_path / "all", 10), CONFIG, seed=0, device="cpu", num_workers=0)
    assert source.num_validation == 3
    assert any("no val or valid" in note and "held out (3 images)" in note for note in source.notes)


def test_all_that_is_given_is_scored_and_never_training_images(tmp_path):
    """Folders without parts whole, an evaluation part alone, shards of one, and no part that trains."""
    data = tmp_path / "data"
    write_part(data / "train", 3)
    write_part(data / "validation", 2)
    assert len(list_evaluation(data / "validation")[0]) == 6
    prepare(data, tmp_path / "shards")
    for shard in (tmp_path / "shards").glob("train-*.tar"):
        shard.unlink()
    assert len(list_evaluation(tmp_path / "shards")[0]) == 6
    shutil.move(data / "train", tmp_path / "kept" / "training")
    assert len(list_evaluation(data)[0]) == 6
    with pytest.raises(DataError, match=r"has no train or training, only validation"):
        list_parts(data)
    with pytest.raises(DataError, match=r"has training, which trains, and no val or valid"):
        list_evaluation(tmp_path / "kept")
    assert len(list_evaluation(tmp_path / "kept" / "training")[0]) == 9
    single = write_part(tmp_path / "single", 4, "b")
    assert len(list_evaluation(single)[0]) == 4


def test_an_evaluation_without_a_class_is_matched_by_name(tmp_path):
    write_part(tmp_path / "train", 3)
    write_part(tmp_path / "val", 2, "bc")
    (tmp_path / "val" / "a").mkdir()
    for empty in (True, False):
        found = list_parts(tmp_path)
        assert found.evaluation is not None and found.evaluation.labels == (1, 1, 2, 2)
        assert any(note.endswith("val has no images of 1 classes: a") for note in found.notes)
        if empty:
            (tmp_path / "val" / "a").rmdir()


def test_every_format_of_pillow_counts_and_the_rest_is_said(tmp_path):
    """.avif, .jfif, no suffix at all; a page of text, a scribble beside the classes, a pipe, hidden files."""
    root = write_part(tmp_path / "images", 1)
    for name in ("x.avif", "x.jfif", "x.jpe", "x.WEBP", "x.jp2", "x.tga"):
        picture(0).save(root / "a" / name)
    picture(0).save(root / "a" / "n0153", format="PNG")
    (root / "b" / "README").write_text("text")
    for number in range(3):
        (root / "c" / f"{number}.heic").write_bytes(b"x")
    (root / "c" / ".DS_Store").write_bytes(b"x")
    (root / "c" / ".ipynb_checkpoints").mkdir()
    picture(0).save(root / "c" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    picture(0).save(root / "stray.png")
    found = list_folder(root)
    assert [found.labels.count(label) for label in range(3)] == [8, 1, 1]
    assert found.notes == [
        f"{root}: 5 files left out: 3 .heic, 1 outside the class folders, 1 without a suffix",
    ]
    source = StreamingSource(root, CONFIG, seed=0, device="cpu", num_workers=0)
    assert sum(len(labels) for _, labels in source.train_batches(0)) == source.num_train == 9
    assert prepare(root, None)["notes"][0] == found.notes[0]


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = write_part(tmp_path / "images", 2)
    extra = write_part(tmp_path / "extra", 5, "d")
    (root / "a" / "more").symlink_to(extra / "d")
    (root / "d").symlink_to(extra / "d")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "same").symlink_to(root / "b")
    found = list_folder(root)
    assert [found.labels.count(label) for label in range(4)] == [7, 2, 2, 5]
    assert found.notes == [f"{root}: 2 files left out: 2 links back"]
    from torchvision.datasets import ImageFolder

    for link in ("up", "same"):
        (root / "b" / link).unlink()
    assert len(ImageFolder(str(root))) == len(list_folder(root)) == 16


def test_bad_images_that_evaluate_are_found_first_and_left_out_up_to_the_limit(tmp_path):
    write_part(tmp_path / "train", 4)
    cut = write_part(tmp_path / "val", 2) / "b" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    source = StreamingSource(tmp_path, CONFIG, seed=0, device="cpu", num_workers=0)
    with pytest.raises(DataError, match=r"b/1\.jpg: unreadable image .* retrain\.max_bad_images allows 0"):
        source.check()
    lenient = CONFIG.model_copy(update={"max_bad_images": 1})
    source = StreamingSource(tmp_path, lenient, seed=0, device="cpu", num_workers=0)
    source.check()
    labels = torch.cat([labels for _, labels in source.validation_batches()])
    assert labels.tolist() == [0, 0, 1, 2, 2] and len(source.bad_images) == 1
    Image.new("RGB", (9, 9)).save(cut)


def test_parts_of_any_name_are_trained_and_evaluated_on_where_they_are_named(tmp_path):
    for name, count in (("photos", 3), ("check", 2), ("val", 1)):
        write_part(tmp_path / name, count)
    found = list_parts(tmp_path, asked=Asked("photos", "check"))
    assert found.evaluation is not None and (len(found.training), len(found.evaluation)) == (9, 6)
    config = CONFIG.model_copy(update={"train_split": "photos"})
    source = StreamingSource(tmp_path, config, seed=0, device="cpu", num_workers=0)
    assert (source.num_train, source.num_validation) == (9, 3)
    with pytest.raises(DataError, match=r"has no part 'test'; it has check, photos, val"):
        list_parts(tmp_path, asked=Asked("photos", "test"))


def test_a_file_says_which_classes_there_are_and_in_which_order(tmp_path):
    write_part(tmp_path / "data/train", 3)
    write_part(tmp_path / "data/val", 2)
    listed = tmp_path / "classes.txt"
    listed.write_text("c\na some words\n")
    found = list_parts(tmp_path / "data", asked=Asked(class_map=str(listed)))
    assert found.evaluation is not None
    for part in (found.training, found.evaluation):
        assert isinstance(part, FolderListing) and part.class_names == ("c", "a") and {*part.labels} == {0, 1}
        assert all("ca"[label] == Path(path).parent.name for path, label in zip(part.paths, part.labels, strict=True))
    assert of_classes(list_folder(tmp_path / "data/val"), ("c", "a")) == found.evaluation
    for text, message in (("c\nx\n", "the images have no class x"), ("c\nc\n", "one in a line, each once")):
        listed.write_text(text)
        with pytest.raises(DataError, match=message):
            list_parts(tmp_path / "data", asked=Asked(class_map=str(listed)))


WNIDS = ("n01440764", "n02123045", "n09999999")


def write_imagenet(root: Path) -> list[int]:
    """Three classes; the validation images flat, numbered from 1. Returns the class of each."""
    for wnid in WNIDS:
        (root / "train" / wnid).mkdir(parents=True)
        picture(1).save(root / "train" / wnid / f"{wnid}_1.JPEG")
    labels = [2, 0, 0, 1, 2]
    (root / "val").mkdir()
    for number, label in enumerate(labels, start=1):
        picture(label).save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    return labels


def write_devkit(root: Path, labels: list[int]) -> Path:
    """ILSVRC2012_devkit_t12/, whose numbers of classes are not in the order of their names."""
    from scipy.io import savemat

    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    kind = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O")])
    order = {wnid: number for number, wnid in enumerate(reversed(WNIDS), start=1)}
    savemat(kit / "meta.mat", {"synsets": np.array([(number, wnid) for wnid, number in order.items()], dtype=kind)})
    truth = "\n".join(str(order[WNIDS[label]]) for label in labels)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    return kit.parent


def test_imagenet_as_kaggle_and_as_its_authors_give_it_is_read_in_place(tmp_path):
    """Validation images in one folder, their classes in LOC_val_solution.csv or in the development kit."""
    kaggle = tmp_path / "kaggle"
    labels = write_imagenet(kaggle / "ILSVRC/Data/CLS-LOC")
    (kaggle / "ILSVRC/Data/CLS-LOC/test").mkdir()
    (kaggle / "ILSVRC/Annotations").mkdir()
    lines = [f"ILSVRC2012_val_{number:08d},{WNIDS[label]} 1 2 3 4 " for number, label in enumerate(labels, start=1)]
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    authors = tmp_path / "authors"
    write_devkit(authors, write_imagenet(authors))
    for root in (kaggle, authors):
        found = list_parts(root)
        assert found.training.class_names == WNIDS and found.evaluation is not None
        assert [*map(int, found.evaluation.labels)] == labels
        assert len(list_evaluation(root)[0]) == 5
    assert len(list_evaluation(authors / "val")[0]) == 5
    summary = prepare(kaggle, tmp_path / "shards")
    assert summary["images"] == {"train": 3, "val": 5}
    assert len(list_parts(tmp_path / "shards").evaluation or ()) == 5
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines[1:]]))
    with pytest.raises(DataError, match=r"val_00000001.JPEG: .*LOC_val_solution.csv has no line for it"):
        list_parts(kaggle)
