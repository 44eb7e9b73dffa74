"""Images decoded while a training runs: the same for any number of loader processes, which end with their own."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import nullcontext
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import processes
from helpers.digit_images import PER_CLASS, same
from nas.config.sections import RetrainConfig
from nas.data.augment import AUGMENTATIONS
from nas.data.streaming import StreamingSource, _random_crop, erase
from nas.training.loop import train


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_streaming_does_not_depend_on_workers(digits_folder, kind):
    config = RetrainConfig(resolution=16, batch_size=20, augment=kind)
    sources = [StreamingSource(digits_folder, config, seed=0, device="cpu", num_workers=workers) for workers in (0, 2)]
    for epoch, start in ((0, 0), (1, 1)):
        torch.manual_seed(epoch)
        first, second = (list(source.train_batches(epoch, start)) for source in sources)
        assert same(first, second) and len(first) == 3 - start
    state = torch.get_rng_state()
    whole = list(sources[1].train_batches(1))
    assert torch.equal(state, torch.get_rng_state())
    assert same(whole[1:], first) and not same(whole, list(sources[0].train_batches(0)))


def test_streaming_uses_every_image_and_the_val_folder(digits_folder):
    config = RetrainConfig(resolution=16, batch_size=20, augment="none")
    source = StreamingSource(digits_folder, config, seed=0, device="cpu", num_workers=0)
    labels = torch.cat([labels for _, labels in source.train_batches(0)])
    assert labels.bincount().tolist() == [PER_CLASS] * 4 and source.steps_per_epoch == 3
    evaluated = torch.cat([labels for _, labels in source.validation_batches()])
    assert evaluated.tolist() == sorted([0, 1, 2, 3] * 3)
    split = StreamingSource(digits_folder / "train", config, seed=0, device="cpu", num_workers=0)
    assert split.num_train == 43 and sum(len(labels) for _, labels in split.validation_batches()) == 5


def test_as_many_images_are_erased_as_asked_each_a_rectangle_of_noise():
    """Of timm's area and ratio; and each image is decided by its own key, wherever it stands."""
    keys = [(0, row, 0) for row in range(600)]
    erased = torch.zeros(600, 3, 24, 24)
    erase(erased, 0.2, 3, keys)
    changed = erased.ne(0).any(1)
    share = changed.flatten(1).any(1).double().mean().item()
    assert 0.14 < share < 0.26
    areas, ratios = [], []
    for image, mask in zip(erased, changed, strict=True):
        rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
        if len(rows):
            high, wide = (int(line[-1] - line[0]) + 1 for line in (rows, columns))
            assert mask.sum() == high * wide == len(rows) * len(columns)
            areas.append(high * wide / 576)
            ratios.append(high / wide)
            assert image[:, mask].unique().numel() > 0.99 * 3 * high * wide
    assert 0.01 < min(areas) < 0.05 and 0.25 < max(areas) < 0.37
    assert 0.2 < min(ratios) < 0.5 and 2 < max(ratios) < 5
    noise = erased[changed[:, None].expand_as(erased)]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    again = torch.zeros(600, 3, 24, 24)
    erase(again, 0.2, 3, keys[::-1])
    assert torch.equal(again.flip(0), erased)
    other = torch.zeros(600, 3, 24, 24)
    erase(other, 0.2, 3, [(1, row, 0) for row in range(600)])
    assert not torch.equal(other, erased)


def test_random_crops_have_the_published_areas_and_ratios_and_lie_anywhere():
    """Read off two ramps of an image of 96x64 pixels: a quarter to all of its area, 3:4 to 4:3, inside it."""
    rows, columns = np.mgrid[:64, :96]
    image = Image.fromarray(np.stack((columns, rows, 0 * rows), 2).astype(np.uint8))
    crops = np.stack([np.asarray(_random_crop(image, 64, Random(seed)), np.float64) for seed in range(1500)])
    wide, high = ((crops[:, 48, 48, axis] - crops[:, 16, 16, axis]) * 2 for axis in (0, 1))
    assert 0.45 < (wide < 0).mean() < 0.55  # mirrored
    wide, whole = np.abs(wide), (np.abs(wide) < 90) & (high < 60)
    area, ratio = (wide * high)[whole] / (96 * 64), (wide / high)[whole]
    assert 0.22 < area.min() < 0.28 and area.max() > 0.6
    assert 0.68 < ratio.min() < 0.8 and 1.28 < ratio.max() < 1.45
    middles = crops[:, 32, 32, :2] / (95, 63) - 0.5
    room = (1 - np.stack((wide / 96, high / 64), 1)) / 2
    assert (np.abs(middles) <= room + 0.04).all()
    inner = whole & (room.min(1) > 0.1)
    share = middles[inner] / room[inner]
    assert np.abs(share.mean(0)).max() < 0.1 and share.std(0).min() > 0.5 and abs(np.corrcoef(share.T)[0, 1]) < 0.1


def test_streamed_training_resumes_exactly_with_other_workers(digits_folder, tmp_path):
    """Interrupted in the second epoch with two workers, resumed with none: the bits of an uninterrupted training."""
    config = RetrainConfig(resolution=16, batch_size=10, epochs=2, amp="off", augment="crop_flip")

    def run(workers, **options):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(392, 4)
        )
        source = StreamingSource(digits_folder, config, seed=0, device="cpu", num_workers=workers)
        rows = train(model, source, config, seed=0, device="cpu", **options)
        return model, rows

    whole, rows = run(0)
    expected = [row["val_loss"] for row in rows]
    turns = iter(range(9))  # five steps and two batches of evaluation in the first epoch, two steps in the second
    keep = {"checkpoint_dir": tmp_path, "checkpoint_seconds": 0}
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(run(2, device_lock=lambda: nullcontext(next(turns)), **keep)[1])
    resumed, rows = run(0, **keep)
    assert [row["val_loss"] for row in rows] == expected
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def load_for_ever(root: Path, found: Path) -> None:
    source = StreamingSource(root, RetrainConfig(resolution=16), seed=0, device="cpu", num_workers=1)
    next(iter(source.train_batches(0)))
    (worker,) = multiprocessing.active_children()
    found.write_text(str(worker.pid))
    time.sleep(600)


def test_loader_workers_die_with_their_process(digits_folder, tmp_path):
    """At once, not at the loader's next look: they hold its lock of the retraining."""
    loading = processes.start(load_for_ever, digits_folder, tmp_path / "pid", daemon=False)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert loading.is_alive()
        time.sleep(0.01)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    assert worker.is_running()
    processes.kill(loading)
    psutil.wait_procs([worker], timeout=2)
    assert not worker.is_running()


def test_an_abandoned_epoch_leaves_no_trace(digits_folder):
    config = RetrainConfig(resolution=16, batch_size=10)
    source = StreamingSource(digits_folder, config, seed=0, device="cpu", num_workers=1)
    expected = list(source.train_batches(4))
    next(iter(source.train_batches(3)))
    assert same(expected, list(source.train_batches(4)))
