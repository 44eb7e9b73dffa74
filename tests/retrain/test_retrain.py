"""Retraining as a user runs it: a found network trained on a folder of images, cut off and gone on with exactly."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from helpers import processes
from helpers.searches import ended, write_experiment
from helpers.trials import CONFIG, context, run, task
from nas.config.reading import dump, load
from nas.networks.model import build_model
from nas.retrain.job import RetrainError, plan_job
from nas.runs.folder import write_run
from nas.space.published import PUBLISHED
from nas.training.checkpoint import load_checkpoint

SETTINGS = [
    part
    for option in ("epochs=3", "resolution=16", "batch_size=25", "learning_rate=0.003", "keep_best=2")
    for part in ("--set", f"retrain.{option}")
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """A folder with a run of two trained networks and a folder of images."""
    folder = tmp_path_factory.mktemp("found")
    run_dir = folder / "results" / "tiny"
    write_run(run_dir, write_experiment(folder), CONFIG)
    where = context(run_dir)
    for number, label in enumerate(["conv3", "gn2"]):
        run(task(number, label), where)
    digits: Any = load_digits()
    taken = [0] * 10
    for image, label in zip(digits.images, digits.target, strict=True):
        part = "train" if taken[label] < 8 else "val"
        if taken[label] < 12:
            path = folder / "images" / part / str(label) / f"{taken[label]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).resize((20, 20)).save(path)
            taken[label] += 1
    return folder


@pytest.fixture(scope="module")
def retrained(found) -> dict:
    """The summary of an undisturbed retraining."""
    processes.finish(retraining(found))
    assert "epoch 3/3" in (found / "err").read_text()
    return json.loads((found / "out").read_text())


def retraining(folder: Path, *more: str, does: Callable = processes.command) -> BaseProcess:
    arguments = ("retrain", "tiny", "--key", key(0), "--data", "images", "--json", *SETTINGS, *more)
    return processes.start(does, folder, *arguments, daemon=False)


def key(number: int) -> str:
    return task(number, ["conv3", "gn2"][number]).genotype.key


def test_metrics_weights_and_description_are_written(found, retrained):
    folder = found / "results/tiny/retrain" / key(0)
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["eval_top1"]) == 100 * retrained["top1"] <= 100 * retrained["best_top1"]
    assert {"train_loss", "eval_loss", "eval_top5", "lr"} <= rows[0].keys()  # as timm names them
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    described = json.loads((folder / "config.json").read_text())
    assert described["num_classes"] == 10 and described["resolution"] == 16 and described["training"]["epochs"] == 3
    assert Path(found / retrained["weights"]) == folder / "model.safetensors"
    best = sorted(rows, key=lambda row: (float(row["eval_top1"]), int(row["epoch"])))[1:]
    named = {f"epoch-{int(row['epoch']):04d}-{float(row['eval_top1']) / 100:.6f}.safetensors" for row in best}
    assert {path.name for path in (folder / "best").iterdir()} == named


def test_a_published_network_is_trained_without_a_run_and_goes_on_without_a_bad_image(found):
    folder = found / "published"
    shutil.copytree(found / "images", folder / "images")
    (folder / "images/train/3/cut.png").write_bytes((found / "images/train/3/0.png").read_bytes()[:100])
    options = ("--set", "retrain.resolution=32", "--set", "retrain.epochs=1", "--set", "retrain.batch_size=25")
    arguments = ("retrain", "--published", "mobilenetv2_050", "--data", "images", "--json", *options)
    # what a job that never began leaves is in nobody's way
    (folder / "results/retrained/retrain" / PUBLISHED["mobilenetv2_050"].key).mkdir(parents=True)
    refused = processes.start(processes.command, folder, *arguments, daemon=False)
    refused.join(60)
    error = (folder / "err").read_text()
    assert refused.exitcode == 2 and "cut.png: unreadable image" in error and "max_bad_images allows 0" in error
    allowed = ("--resume", "--set", "retrain.max_bad_images=1")
    processes.finish(processes.start(processes.command, folder, *arguments, *allowed, daemon=False))
    summary = json.loads((folder / "out").read_text())
    assert summary["proxy_top1"] is None and summary["epochs"] == summary["bad_images"] == 1
    result = folder / "results/retrained/retrain" / summary["key"]
    assert "cut.png" in (result / "bad_images.txt").read_text()
    weights = load_file(result / "model.safetensors")
    expected = build_model(PUBLISHED["mobilenetv2_050"], 10, 3).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {k: v.shape for k, v in expected.items()}


def test_the_weights_are_those_that_were_measured(found, retrained):
    """What is exported, the network of config.json with them, reaches the reported accuracy on the same images."""
    from nas.config.reading import load
    from nas.data.sources import open_source
    from nas.deploy.trained import find_retrained
    from nas.training.loop import evaluate

    config = load(found / "results/tiny/resolved.yaml", [option for option in SETTINGS if option != "--set"]).retrain
    source = open_source(config, seed=0, device="cpu", cache_dir=found / "cache", data_dir=found / "images")
    _, top1 = evaluate(find_retrained(found / "results/tiny", key(0)).model(), source)
    assert top1 == retrained["top1"]


def save_after_every_step(folder: Path, *arguments: str) -> None:
    from nas.retrain import worker

    worker.train_worker.__defaults__ = (None, 0.0)  # stop, checkpoint_seconds
    processes.command(folder, *arguments)


def test_resume_after_a_kill_gives_the_same_weights(found, retrained):
    cut = found / "cut"
    shutil.copytree(found / "results", cut / "results")
    shutil.rmtree(cut / "results/tiny/retrain")
    (cut / "images").symlink_to(found / "images")
    folder = cut / "results/tiny/retrain" / key(0)
    process = retraining(cut, does=save_after_every_step)
    while not any(path.name >= "00000003" for path in folder.glob("checkpoints/*.json")):
        assert process.is_alive()
        time.sleep(0.01)
    processes.kill(process)
    assert not (folder / "model.safetensors").exists()
    processes.finish(retraining(cut, "--resume"))
    assert json.loads((cut / "out").read_text())["top1"] == retrained["top1"]
    expected, got = (
        load_file(path / "model.safetensors") for path in (found / "results/tiny/retrain" / key(0), folder)
    )
    assert expected.keys() == got.keys() and all(torch.equal(expected[name], got[name]) for name in expected)


def retrain_on_a_full_disk(folder: Path) -> None:
    """For a process of its own: with room for the run's folder but for few checkpoints, in a file system of its own."""
    trainings = folder / "results/tiny/retrain"
    trainings.mkdir()
    assert ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0  # CLONE_NEWNS: nobody else sees the mount
    for command in ("mount --make-rprivate /", f"mount -t tmpfs -o size=640k tmpfs {trainings}"):
        subprocess.run(command.split(), check=True)
    code: object = None
    try:
        save_after_every_step(folder, "retrain", "tiny", "--key", key(0), "--data", "images", *SETTINGS)
    except SystemExit as end:
        code = end.code
    saved = load_checkpoint(trainings / key(0) / "checkpoints")
    progress = saved["progress"] if saved else {"epoch": 0, "step": 0}
    (folder / "ended").write_text(f"{code} {progress['epoch']} {progress['step']}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_ends_the_training_and_leaves_the_last_checkpoint_whole(found):
    full = found / "full"
    shutil.copytree(found / "results", full / "results", ignore=shutil.ignore_patterns("retrain"))
    (full / "images").symlink_to(found / "images")
    processes.finish(processes.start(retrain_on_a_full_disk, full, daemon=False))
    code, epoch, step = map(int, (full / "ended").read_text().split())
    assert "no space left; what was saved is whole, go on with --resume" in (full / "err").read_text()
    assert code == 1 and (epoch, step) > (0, 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--key", "zzz", "--data", "images"], "--key 'zzz' is no finished architecture of tiny; there are "),
        (["--key", "", "--data", "images"], "--key '' fits several architectures"),
        (["--key", "KEY1", "--data", "absent"], "absent"),
        (["--key", "KEY1"], "--data"),
        (["--key", "KEY1", "--data", "images", "--set", "retrain.dataset=digits"], "--data images: not used; "),
        (["--key", "KEY1", "--data", "empty"], "empty"),
        (["--key", "KEY1", "--data", "images", "--set", "retrain.epoch=2"], "retrain.epoch"),
        (["--key", "KEY1", "--data", "images", "--set", "retrain.resolution=65536"], "65536 need at least"),
        (["--key", "KEY1", "--data", "images", "--set", "retrain.optimizer=adamv"], "'adamv' is unknown; allowed are"),
        (["--key", "KEY1", "--data", "images", "--weights", "nowhere"], "--weights 'nowhere': there is no such thing"),
        (["--key", "KEY0", "--data", "images"], "exists; go on with --resume, or train anew under another --name"),
        (["--key", "KEY0", "--data", "images", "--resume", *SETTINGS, "--set", "retrain.epochs=2"], "epochs: 3 -> 2"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(found, retrained, monkeypatch, capsys, arguments, message):
    (found / "empty").mkdir(exist_ok=True)
    named = {"KEY0": key(0), "KEY1": key(1)}
    arguments = [named.get(argument) or argument for argument in arguments]
    threads = torch.get_num_threads()
    code, _, error = ended(found, monkeypatch, capsys, "retrain", "tiny", *arguments)
    torch.set_num_threads(threads)
    assert code == 2 and message in error, error
    assert not (found / "results/tiny/retrain" / key(1)).exists()


def test_a_recipe_trains_on_the_folder_that_is_given(found, tmp_path):
    """Also where the run's own retraining takes the digits; without a folder, a recipe takes these too."""
    run_dir = tmp_path / "results/tiny"
    shutil.copytree(found / "results/tiny", run_dir)
    settings = load(run_dir / "resolved.yaml", ["retrain.dataset=digits", "retrain.resolution=8"])
    (run_dir / "resolved.yaml").write_text(dump(settings), encoding="utf-8")
    assert plan_job(run_dir, key(1), None, recipe="a3").config["dataset"] == "digits"
    assert plan_job(run_dir, key(1), found / "images", recipe="a3").config["dataset"] == "imagefolder"
    with pytest.raises(RetrainError, match="not used"):
        plan_job(run_dir, key(1), found / "images")
