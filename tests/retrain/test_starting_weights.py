"""Trainings that start from weights, several of one network, and trainings that go on otherwise than they began."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nas
from helpers.retrainings import write_digits
from helpers.searches import ended, write_experiment
from helpers.trials import CONFIG, context, run, task
from nas.base.errors import UserError
from nas.retrain.job import RetrainError
from nas.retrain.weights import find_weights
from nas.runs.folder import proxy_folder, write_run

SETTINGS = {
    "retrain.dataset": "digits",
    "retrain.resolution": 8,
    "retrain.batch_size": 500,
    "retrain.epochs": 1,
    "retrain.augment": "none",
}
KEY = task().genotype.key


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A folder with a run of one network that was trained shortly, as a search leaves it."""
    folder = tmp_path_factory.mktemp("searched")
    write_run(folder / "results/tiny", write_experiment(folder), CONFIG)
    run(task(), context(folder / "results/tiny"))
    return folder


@pytest.fixture
def found(searched, tmp_path) -> nas.Run:
    """A copy of that run."""
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    return nas.Run(tmp_path / "results/tiny")


def retrain(found: nas.Run, settings: dict | None = None, **options) -> dict:
    return found.retrain(KEY, overrides=SETTINGS | (settings or {}), devices=1, **options)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_network_of_the_front_is_used_at_once_and_trained_on_from_its_own_weights(found, monkeypatch, capsys):
    """On the test images, which no search sees; and steps of no size leave the weights that the search ended with."""
    root = found.path.parent.parent
    code, said, _ = ended(root, monkeypatch, capsys, "evaluate", "tiny", "--key", KEY, "--weights", "proxy", "--json")
    (measured,) = json.loads(said)
    assert code == 0 and measured["num_images"] == 300
    retrain(found, {"retrain.learning_rate": 1e-20}, weights="proxy", name="still")
    lines = capsys.readouterr().err
    assert "weights: " in lines and f"proxy/{KEY}/model.safetensors" in lines and "left as they start" not in lines
    kept, ended_with = weights_of(proxy_folder(found.path, KEY)), weights_of(found.path / f"retrain/{KEY}-still")
    assert all(torch.equal(kept[name], ended_with[name]) for name in kept if name.endswith(("weight", "bias")))
    described = json.loads((found.path / f"retrain/{KEY}-still/config.json").read_text())
    assert described["weights_from"].endswith(f"proxy/{KEY}/model.safetensors")
    code, _, error = ended(root, monkeypatch, capsys, "predict", "tiny", "x.png", "--key", KEY, "--weights", "proxi")
    assert code == 2 and "--weights 'proxi': allowed are last, best, ema, proxy or a file" in error
    shutil.rmtree(found.path / "retrain")
    with pytest.raises(UserError, match="the weights of the search's own training: --weights proxy"):
        found.trained(KEY)


def test_several_trainings_of_a_network_stand_side_by_side(found, capsys):
    """By name in the report, apart on disk; without a name the one that has none is meant, or the only one."""
    retrain(found, {"retrain.seed": 1}, name="long")
    assert found.trained(KEY).folder.name == f"{KEY}-long"
    retrain(found, {"retrain.seed": 2, "retrain.ema": 0.5, "retrain.epochs": 2})
    assert found.trained(KEY[:5]).folder.name == KEY and found.trained(name="long").folder.name == f"{KEY}-long"
    entries = found.report()["retrained"]
    assert {(entry["key"], entry["name"]) for entry in entries} == {(KEY, ""), (KEY, "long")}
    assert f"{KEY} long" in str(found) and "Retrained, 1 network" in str(found)
    best = found.trained(KEY, weights="best")
    assert best.model() and "best of 2" in best._retrained.of_epoch
    assert max(entry["best_top1"] for entry in entries if not entry["name"]) == best._retrained.described["top1"]
    assert found.trained(KEY, weights="ema").model()
    with pytest.raises(UserError, match=r"trained without an average \(retrain.ema\)"):
        found.trained(KEY, name="long", weights="ema")
    mine = found.trained(KEY, weights=found.path / f"retrain/{KEY}-long/model.safetensors")
    with torch.no_grad():
        images = torch.randn(3, 1, 8, 8)
        assert torch.equal(mine.model()(images), found.trained(KEY, name="long").model()(images))
    assert "not measured" in (mine.export() / "README.md").read_text()
    with pytest.raises(RetrainError, match="--name '-x': allowed are up to 64"):
        retrain(found, name="-x")


def test_a_finished_training_is_prolonged(found, capsys):
    """A cool-down as if it had been asked for at the start, more epochs by the schedule of the new length; fewer, and
    what would be another training, are refused."""
    more = {"retrain.final_learning_rate": 1e-4, "retrain.epochs": 2}
    retrain(found, more)
    retrain(found, more | {"retrain.cooldown_epochs": 1}, resume=True)
    assert "retrain.cooldown_epochs: 0 -> 1; what is trained stays" in capsys.readouterr().err
    retrain(found, more | {"retrain.cooldown_epochs": 1}, name="whole")
    prolonged, whole = (weights_of(found.path / f"retrain/{KEY}{end}") for end in ("", "-whole"))
    assert all(torch.equal(prolonged[name], whole[name]) for name in whole)
    rows = (found.path / f"retrain/{KEY}/metrics.csv").read_text().splitlines()
    rates = [float(row.split(",")[rows[0].split(",").index("lr")]) for row in rows[1:]]
    assert len(rates) == 3 and abs(rates[2] - 1e-4) < 1e-9 < 1e-4 < rates[1]
    of_machine = {"retrain.device_batch_size": 250, "retrain.num_workers": 3, "retrain.loader_timeout": 5}
    more |= {"retrain.cooldown_epochs": 1}
    summary = retrain(found, more | {"retrain.epochs": 3} | of_machine, resume=True)
    assert summary["epochs"] == 4
    said = capsys.readouterr().err
    assert "retrain.device_batch_size: None -> 250; batch norms see" in said and "retrain.epochs: 2 -> 3" in said
    for settings, message in (
        ({"retrain.epochs": 1}, "epochs: 3 -> 1"),
        ({"retrain.learning_rate": 0.5}, "learning_rate: 0.002 -> 0.5"),
    ):
        with pytest.raises(RetrainError, match=message):
            retrain(found, more | settings, resume=True)


def test_weights_are_found_wherever_a_user_has_them(found, tmp_path, monkeypatch):
    kept = proxy_folder(found.path, KEY) / "model.safetensors"
    for given in ("proxy", str(kept), str(kept.parent), str(found.path)):
        assert find_weights(given, found.path, KEY) == kept.resolve()
    snapshot = tmp_path / "hub/models--me--net/snapshots" / ("0" * 40)
    shutil.copytree(kept.parent, snapshot)
    (tmp_path / "hub/models--me--net/refs").mkdir()
    (tmp_path / "hub/models--me--net/refs/main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_weights("hf:me/net", found.path, KEY).read_bytes() == kept.read_bytes()
    for given, message in (
        ("hf:me/other", "--weights hf:me/other: "),
        ("nowhere", "--weights 'nowhere': there is no such thing; allowed are proxy, supernet, a file"),
    ):
        with pytest.raises(RetrainError, match=message):
            find_weights(given, found.path, KEY)
    with pytest.raises(RetrainError, match="is not there; kept are those of the networks of the front"):
        find_weights("proxy", found.path, "0" * 12)


def test_profile_takes_a_network_of_a_run_with_its_images(found, monkeypatch, capsys):
    root = found.path.parent.parent
    code, said, _ = ended(root, monkeypatch, capsys, "profile", "tiny", "--key", KEY[:6], "--json")
    profile = json.loads(said)
    record = found.record(KEY)
    assert code == 0 and profile["resolution"] == 8
    assert (profile["num_params"], profile["num_macs"]) == (record.costs["num_params"], record.costs["num_macs"])


def test_other_evaluation_images_are_said_and_not_refused(found, capsys):
    """An unreadable one was taken away, for example."""
    images = write_digits(found.path.parent / "images", per_class=6, side=16)
    settings = {"retrain.dataset": "imagefolder", "retrain.resolution": 16}
    retrain(found, settings, data=images)
    (images / "val/3/5.png").unlink()
    again = retrain(found, settings | {"retrain.cooldown_epochs": 1}, data=images, resume=True)
    assert again["epochs"] == 2 and "evaluation images are not those" in capsys.readouterr().err
    (images / "train/3/1.png").unlink()
    with pytest.raises(RetrainError, match="begun with other settings: images: "):
        retrain(found, settings | {"retrain.cooldown_epochs": 1}, data=images, resume=True)
