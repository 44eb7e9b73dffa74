"""Accuracy counted otherwise than by labels: ReaL's, among some classes, by numbers; and what a network confuses."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.searches import ended
from nas.base.errors import UserError
from nas.config.training import RetrainConfig
from nas.data.batches import Batch
from nas.data.images.parts import list_evaluation
from nas.data.preparation import Preparation
from nas.data.prepare import prepare
from nas.deploy.inference import evaluate, predict
from nas.deploy.mistakes import Mistakes
from nas.deploy.trained import TrainedNetwork, read_trained
from nas.networks.model import build_model
from nas.runs.retrainings import MISTAKES
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.loop import count_right
from nas.training.result import write_result

WNIDS = [f"n0000000{number}" for number in (3, 1, 7, 5, 2, 6, 4, 8)]
"""Not in the order of ImageNet's numbers, as after a training with a class map."""
IN_ORDER = sorted(WNIDS)
NUM_IMAGES = 24


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((10, 8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainedNetwork:
    """A network of eight classes that guesses all of them: no class is likelier than others on average."""
    block = specs.Basic(width=8, operator=specs.Conv())
    found = Genotype(stem=specs.Stem(kind="small", width=8), stages=((block,),))
    folder = tmp_path_factory.mktemp("counting") / "results" / "retrained" / "retrain" / found.key
    torch.manual_seed(1)
    preparation = Preparation((0.5,) * 3, (0.2,) * 3)
    model = build_model(found, 8, 3)
    images = [preparation.pixels(picture(number), 8) for number in range(1, NUM_IMAGES + 1)]
    with torch.no_grad():
        model.eval().head.fc.bias -= model(preparation.normaliser(torch.device("cpu"))(torch.stack(images))).mean(0)
    described = {
        **{"key": found.key, "genotype": found.to_dict(), "class_names": WNIDS, "num_classes": 8, "in_channels": 3},
        **{"resolution": 8, "epochs": 1, "seconds": 1.0, "images_per_second": 1.0, "proxy_top1": None, "top1": 0.5},
        "preparation": preparation.to_dict(),
        "training": RetrainConfig(resolution=8, amp="off").model_dump(mode="json") | {"seed": 3},
    }
    write_result(folder, model, described)
    return read_trained(folder)


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> Path:
    """Images under ImageNet's names in folders of their classes."""
    root = tmp_path_factory.mktemp("images") / "val"
    for number in range(1, NUM_IMAGES + 1):
        folder = root / IN_ORDER[number % 8]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", format="PNG")
    return root


@dataclass
class InMemory:
    """A source of images that are there."""

    images: torch.Tensor
    labels: torch.Tensor

    def validation_batches(self) -> Iterator[Batch]:
        yield from zip(self.images.split(32), self.labels.split(32), strict=True)


def guesses(trained: TrainedNetwork, val: Path) -> dict[int, list[str]]:
    """Number of an image -> all classes, the likeliest first."""
    found = predict(trained, [val], top=8, device="cpu")
    return {int(Path(entry["image"]).stem[-8:]): [guess["class"] for guess in entry["guesses"]] for entry in found}


def test_reals_labels_count_every_class_that_is_right_and_leave_out_images_without_one(
    trained, val, tmp_path, monkeypatch, capsys
):
    right = [[(number * 3) % 8, (number + 1) % 8] if number % 3 else [] for number in range(1, NUM_IMAGES + 1)]
    file = tmp_path / "real.json"
    file.write_text(json.dumps(right))
    given = guesses(trained, val)
    counted = {number: {IN_ORDER[label] for label in right[number - 1]} for number in given if right[number - 1]}
    top1 = sum(given[number][0] in classes for number, classes in counted.items()) / len(counted)
    top5 = sum(not classes.isdisjoint(given[number][:5]) for number, classes in counted.items()) / len(counted)
    (found,) = evaluate(trained, val, tmp_path, batch_size=5, device="cpu", real_labels=file)
    assert found["real"] == {"num_images": 16, "top1": pytest.approx(top1), "top5": pytest.approx(top5)}
    assert 0 < top1 < top5 and top1 != found["top1"] and found["num_images"] == NUM_IMAGES
    (plain,) = evaluate(trained, val, tmp_path, batch_size=5, device="cpu")
    assert {name: found[name] for name in plain} == plain and "real" not in plain and "among_given" not in plain
    root = trained.folder.parents[3]
    code, said, _ = ended(root, monkeypatch, capsys, "evaluate", "retrained", "--data", val, "--real-labels", file)
    assert code == 0 and f"ReaL: top1 {top1:.4f}  top5 {top5:.4f}  (16 images)" in said


@pytest.mark.parametrize(
    "text, message",
    [
        ("no JSON", "no JSON list with a list of class numbers per image"),
        ("[1, 2]", "no JSON list with a list of class numbers per image"),
        ("[[1], [8]]", "has the class 8, the network 0 to 7"),
        ("[[1], [-1]]", "has the class -1, the network 0 to 7"),
        ("[[1]]", "is not of its 1 images, which are called ILSVRC2012_val_"),
        (json.dumps([[]] * NUM_IMAGES), "none of the 24 images has a label there"),
    ],
)
def test_a_file_that_is_not_reals_is_refused(trained, val, tmp_path, text, message):
    file = tmp_path / "real.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        evaluate(trained, val, tmp_path, device="cpu", real_labels=file)


def test_images_whose_names_have_no_number_are_refused(trained, val, tmp_path):
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[1]] * NUM_IMAGES))
    data = tmp_path / "data"
    shutil.copytree(val, data / "train")
    shutil.copytree(val, data / "val")
    prepare(data, tmp_path / "shards")
    listing, _ = list_evaluation(tmp_path / "shards")
    assert listing.file_name(0) in {f"{row:09d}.jpg" for row in range(NUM_IMAGES)}
    with pytest.raises(UserError, match=r"0000000\d\d.jpg is not of its 24 images"):
        evaluate(trained, tmp_path / "shards", tmp_path, device="cpu", real_labels=file)


def test_images_of_some_classes_are_scored_among_these_too(trained, val, tmp_path, monkeypatch, capsys):
    """As ImageNet-A and -R are, which have 200 classes."""
    kept = IN_ORDER[2:5]
    for name in kept:
        shutil.copytree(val / name, tmp_path / "some" / name)
    given = guesses(trained, tmp_path / "some")
    likeliest = {number: next(name for name in names if name in kept) for number, names in given.items()}
    top1 = sum(name == IN_ORDER[number % 8] for number, name in likeliest.items()) / len(likeliest)
    (found,) = evaluate(trained, tmp_path / "some", tmp_path, device="cpu")
    assert found["among_given"]["num_classes"] == 3 and found["among_given"]["top1"] == pytest.approx(top1)
    assert found["top1"] < top1 and found["among_given"]["top5"] == 1
    arguments = ("evaluate", "retrained", "--data", tmp_path / "some")
    _, said, _ = ended(trained.folder.parents[3], monkeypatch, capsys, *arguments)
    assert f"among their 3 classes: top1 {top1:.4f}  top5 1.0000" in said


def test_the_images_of_the_search_are_scored_where_no_others_are_given(trained, val, tmp_path):
    shutil.copytree(val / IN_ORDER[0], tmp_path / "given" / IN_ORDER[0])
    searched = replace(trained, described=trained.described | {"proxy": {"data_dir": str(val)}})
    counts = [evaluate(searched, data, tmp_path, device="cpu")[0]["num_images"] for data in (None, tmp_path / "given")]
    assert counts == [NUM_IMAGES, NUM_IMAGES // 8]
    with pytest.raises(UserError, match="--data: missing; the network was trained on a folder of images"):
        evaluate(trained, None, tmp_path, device="cpu")


def test_classes_that_are_numbers_are_imagenets(trained, val, tmp_path):
    """As ImageNet-V2's folders are: 0, 1, ..., 10, ..., which another order than that of numbers would mix up."""
    for number, name in enumerate(IN_ORDER):
        shutil.copytree(val / name, tmp_path / "v2" / str(number))
    notes: list[str] = []
    (found,) = evaluate(trained, tmp_path / "v2", tmp_path, device="cpu", say=notes.append)
    (named,) = evaluate(trained, val, tmp_path, device="cpu")
    assert found == named and any("its classes are numbers" in note for note in notes)
    shutil.rmtree(tmp_path / "v2" / "7")
    with pytest.raises(UserError, match="7 classes are not among the 8 trained ones"):
        evaluate(trained, tmp_path / "v2", tmp_path, device="cpu")


def test_what_the_network_confuses_is_kept_beside_its_weights(trained, val, tmp_path, monkeypatch, capsys):
    code, _, said = ended(trained.folder.parents[3], monkeypatch, capsys, "evaluate", "retrained", "--data", val)
    path = trained.folder / MISTAKES
    assert code == 0 and f"for the page of its trial: {path.relative_to(trained.folder.parents[3])}" in said
    kept = json.loads(path.read_text(encoding="utf-8"))
    likeliest = {int(Path(one["image"]).stem[-8:]): one["guesses"][0] for one in predict(trained, [val], device="cpu")}
    wrong = {number: guess for number, guess in likeliest.items() if guess["class"] != IN_ORDER[number % 8]}
    assert 0 < len(wrong) < NUM_IMAGES and kept["class_names"] == WNIDS
    counts = [[0] * 8 for _ in WNIDS]
    for number, guess in likeliest.items():
        counts[WNIDS.index(IN_ORDER[number % 8])][WNIDS.index(guess["class"])] += 1
    assert kept["matrix"] == counts
    assert (kept["num_images"], kept["num_wrong"]) == (NUM_IMAGES, len(wrong))
    for pair in kept["pairs"]:
        label, predicted = (WNIDS.index(pair[name]) for name in ("label", "predicted"))
        assert pair["count"] == counts[label][predicted] > 0 and pair["of"] == 3
    assert sum(pair["count"] for pair in kept["pairs"]) == len(wrong)
    order = sorted(wrong, key=lambda number: -wrong[number]["probability"])
    assert [int(image["file"][-13:-5]) for image in kept["images"]] == order
    listing, _ = list_evaluation(val)
    for number, image in zip(order, kept["images"], strict=True):
        assert listing.file_name(image["index"]) == image["file"]
        assert (image["label"], image["predicted"]) == (IN_ORDER[number % 8], wrong[number]["class"])
        assert image["probability"] == pytest.approx(wrong[number]["probability"], abs=1e-5)
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["png"]))))
        given = trained.preparation.pixels(picture(number), 8).numpy().transpose(1, 2, 0)
        assert np.abs(shown.astype(int) - given).max() <= 1


def test_weights_of_another_file_leave_what_is_kept(trained, val, tmp_path):
    other = shutil.copy(trained.file, tmp_path / "other.safetensors")
    (trained.folder / MISTAKES).write_text("{}", encoding="utf-8")
    evaluate(trained.with_weights(str(other)), val, tmp_path, device="cpu", keep=True)
    assert (trained.folder / MISTAKES).read_text(encoding="utf-8") == "{}"
    evaluate(trained, val, tmp_path, device="cpu")
    assert (trained.folder / MISTAKES).read_text(encoding="utf-8") == "{}"


def test_of_many_classes_the_most_confused_pairs_are_kept_and_small_images(trained):
    names = [str(number) for number in range(1000)]
    many = replace(trained, described=trained.described | {"class_names": names, "num_classes": 1000})
    labels = torch.arange(60) % 7
    images = torch.zeros(60, 3, 200, 100)
    logits = torch.zeros(60, 1000).scatter(1, (labels * 3 % 7)[:, None], torch.linspace(5, 9, 60)[:, None])
    mistakes, scores = Mistakes(many, InMemory(images, labels)), []
    count = mistakes.beside(count_right)
    for (_, of_batch), given in zip(mistakes.validation_batches(), logits.split(32), strict=True):
        scores.append(count(given, of_batch))
        count(given.flip(1), of_batch)  # in another dtype: the first counts
    assert torch.equal(torch.stack(scores).sum(0), count_right(logits, labels))
    found = mistakes.found()
    assert found["matrix"] is None and found["class_names"] is None and found["num_wrong"] == 60 - 9
    assert [(pair["label"], pair["predicted"]) for pair in found["pairs"]] == [
        (str(label), str(label * 3 % 7)) for label in (1, 2, 3, 4, 5, 6)
    ]
    assert [image["index"] for image in found["images"]] == [place for place in range(59, 0, -1) if place % 7][:24]
    assert Image.open(io.BytesIO(base64.b64decode(found["images"][0]["png"]))).size == (32, 64)
