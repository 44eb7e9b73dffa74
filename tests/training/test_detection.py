"""Detectors in the one loop: scenes in batches, boxes that follow their pictures, exact going on, known costs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from helpers.detection import CONFIG, SPACE
from helpers.trainings import Interrupted, timeless, weights
from nas.config.sections import ProxyConfig
from nas.data.augment import shift_scenes
from nas.data.scenes import SceneSource, load_scenes
from nas.measure.cost import num_macs, num_params
from nas.networks.task import build_measured, build_network
from nas.search.surrogate.known_costs import KnownCosts
from nas.training.boxes import average_precision
from nas.training.engine import Engine
from nas.training.loop import train
from nas.training.process_state import reset_process
from nas.training.tasks import TASKS

PROXY = CONFIG.proxy.chosen({})
AVERAGED = PROXY.model_copy(update={"ema": 0.9})


@pytest.fixture(scope="module")
def dataset():
    return load_scenes(PROXY, seed=0)


def detector(label: str = "gn2", **changes: Any) -> Any:
    reset_process(1)
    return build_network(SPACE.decode((SPACE.uniform(label) or {}) | changes), 10, 1, PROXY.resolution)


def trained(dataset, model, settings: ProxyConfig = AVERAGED, **options: Any) -> list[dict]:
    source = SceneSource(dataset, settings, seed=0, device="cpu")
    engine = Engine(task=TASKS["detection"])
    return list(train(model, source, settings, seed=1, device="cpu", engine=engine, **options))


def test_scenes_are_split_and_come_in_equal_batches(dataset):
    assert (len(dataset.train), len(dataset.validation), dataset.num_classes) == (8, 2, 10)
    source = SceneSource(dataset, PROXY, seed=0, device="cpu")
    batches = list(source.train_batches(1))
    assert [len(targets) for _, targets in batches] == [4, 4] == [len(images) for images, _ in batches]
    for (images, targets), (again, same) in zip(batches[1:], source.train_batches(1, 1), strict=True):
        assert torch.equal(images, again)
        assert all(torch.equal(a[name], b[name]) for a, b in zip(targets, same, strict=True) for name in a)
    assert not torch.equal(batches[0][0], next(source.train_batches(0))[0])
    other = load_scenes(PROXY, seed=1)
    assert other.fingerprint != dataset.fingerprint
    assert not torch.equal(other.validation[0].image, dataset.validation[0].image)


def test_boxes_move_with_their_pictures_and_go_where_less_than_half_is_left():
    images = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 0:6, 10:20] = 255
    boxes = [torch.tensor([[10.0, 0.0, 20.0, 6.0]])] * 64
    moved, found, kept = shift_scenes(images, boxes, torch.Generator().manual_seed(0))
    assert 10 < sum(len(each) for each in found) < 64  # up by four pixels two of six rows are left
    for picture, each, stays in zip(moved, found, kept, strict=True):
        rows, columns = picture[0].any(dim=1).nonzero()[:, 0], picture[0].any(dim=0).nonzero()[:, 0]
        lit = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert stays.item() == (rows[-1] + 1 - rows[0] >= 3)
        assert each.tolist() == ([list(map(float, lit))] if stays else [])


def test_a_detector_goes_on_to_the_same_bits(dataset, tmp_path):
    """As `test_train_resume` has it of classifiers: each life makes a step, or an evaluation, and dies in the next."""
    rows = trained(dataset, whole := detector())
    assert [row["epoch"] for row in rows] == [1, 2] and all(0 <= row["box_ap"] <= 1 for row in rows)
    assert rows[0].keys() >= {"train_loss", "box_ap", "box_ap50", "learning_rate"} and "top1" not in rows[0]
    lives, pieces = 0, []
    while not pieces:
        lives += 1
        left = [1]

        @contextmanager
        def device_lock(left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Interrupted
            yield

        resumed = detector()
        try:
            pieces = trained(dataset, resumed, checkpoint_dir=tmp_path, checkpoint_seconds=0, device_lock=device_lock)
        except Interrupted:
            assert lives < 10
    assert lives == 6 and timeless(pieces) == timeless(rows) and weights(resumed) == weights(whole)


def test_a_detector_learns_from_some_hundred_scenes():
    more = {"num_scenes": 200, "epochs": 2, "batch_size": 8, "learning_rate": 8e-3}
    settings = PROXY.model_copy(update=more)
    rows = trained(load_scenes(settings, 0), detector("conv3"), settings)
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[-1]["box_ap50"] > 0.08 and rows[-1]["box_ap"] > max(0.035, rows[0]["box_ap"])


def test_average_precision_is_that_of_boxes_and_classes():
    truth = {"boxes": torch.tensor([[2.0, 2.0, 22.0, 22.0]]), "labels": torch.tensor([3])}
    exact = truth | {"scores": torch.tensor([0.9])}
    assert average_precision([exact], [truth], 10, 64) == {"box_ap": 1.0, "box_ap50": 1.0}
    assert average_precision([exact | {"labels": torch.tensor([4])}], [truth], 10, 64)["box_ap"] == 0
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert average_precision([nothing], [truth], 10, 64) == {"box_ap": 0.0, "box_ap50": 0.0}


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_costs_of_detectors_are_known_without_building_them(kind):
    dense = CONFIG.space.dense
    assert dense is not None
    stages = [*CONFIG.space.stages, CONFIG.space.stages[-1]]
    changed = CONFIG.space.model_copy(update={"dense": dense.model_copy(update={"kind": kind}), "stages": stages})
    space = type(SPACE)(changed)
    known = KnownCosts(space, PROXY.resolution, 1, 10)
    for at in (0, -1, 1):
        params = {name: values[min(at, len(values) - 1)] for name, values in space.choices().items()}
        with torch.device("meta"):
            built = build_measured(space.decode(params), 10, 1, PROXY.resolution)
        shape = (1, PROXY.resolution, PROXY.resolution)
        assert known(params) == {"num_params": num_params(built), "num_macs": num_macs(built, shape)}
