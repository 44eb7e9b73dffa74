"""Where the metrics of a retraining go besides its table: the real loggers, read back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from helpers.tensorboard import scalars
from nas.base.errors import UserError
from nas.config.training import RetrainConfig
from nas.retrain.training_log import TrainingLog
from nas.training import loggers
from nas.training.loggers import check_loggers

KEY = "0123456789"


def row(epoch: int) -> dict[str, float]:
    return {
        "epoch": epoch,
        "train_loss": 2.0 / epoch,
        "val_loss": 2.5 / epoch,
        "top1": 0.25 * epoch,
        "seconds": 1.0,
    } | {
        "images_per_second": 100.0,
        "wait_share": 0.1,
    }


def follow(folder: Path, epochs: range, *log: str) -> None:
    """A life of a training; one that goes on tells of its finished epochs again."""
    config = RetrainConfig.model_validate({"log": list(log), "epochs": 3})
    folder.mkdir(exist_ok=True)
    kept = TrainingLog(folder, KEY, config, steps_per_epoch=4, num_train=100)
    for epoch in epochs:
        kept.row(row(epoch))
    kept.close()


def test_a_training_that_goes_on_tells_tensorboard_each_epoch_once(tmp_path):
    follow(tmp_path, range(1, 3), "tensorboard")
    time.sleep(1.1)  # TensorBoard's files are named by the second
    follow(tmp_path, range(1, 4), "tensorboard")
    assert scalars(tmp_path / "tensorboard", "eval_top1") == [(1, 25.0), (2, 50.0), (3, 75.0)]
    assert scalars(tmp_path / "tensorboard", "train_loss") == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_a_training_that_goes_on_is_one_run_of_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra of the user's choice and not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    follow(tmp_path, range(1, 3), "mlflow")
    follow(tmp_path, range(1, 4), "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("opnas").experiment_id])
    assert run.info.run_name == KEY and run.data.params["epochs"] == "3"
    history = client.get_metric_history(run.info.run_id, "eval_top1")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 25.0), (2, 50.0), (3, 75.0)]


def test_a_training_that_goes_on_is_one_run_of_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is an extra of the user's choice and not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(tmp_path, range(1, 3), "wandb")
    time.sleep(1.1)  # its folders are named by the second
    follow(tmp_path, range(1, 4), "wandb")
    lives = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert [path.name.startswith(f"run-{KEY}-") for path in lives] == [True, True] and lives[0].name == lives[1].name
    told = [set(re.findall(rb"eval_top1[^\d]{1,4}(\d\d)", path.read_bytes())) for path in lives]
    assert told == [{b"25", b"50"}, {b"75"}]


def test_a_logger_that_is_not_installed_is_named_before_anything_begins(monkeypatch):
    check_loggers(["tensorboard"], "retrain.log")
    monkeypatch.setitem(loggers.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(
        UserError, match=r"retrain\.log: wandb needs the package no_such_package, which is not installed"
    ):
        check_loggers(["tensorboard", "wandb"], "retrain.log")


def test_a_logger_that_fails_ends_nothing_and_is_told_once(tmp_path, monkeypatch, capsys):
    class Away:
        def __init__(self, folder, name, settings): ...

        def log(self, row, step):
            raise ConnectionError("the service is away\nfor a while")

        def close(self):
            raise AssertionError("it was left out")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", Away)
    both = loggers.Loggers(["wandb", "tensorboard"], "search.log", tmp_path, "name", {})
    for step in (1, 2):
        both.log({"top1": step / 4}, step)
    both.close()
    assert capsys.readouterr().err == "search.log: wandb failed, and gets no more: the service is away\n"
    assert scalars(tmp_path / "tensorboard", "top1") == [(1, 0.25), (2, 0.5)]


def test_a_logger_that_cannot_be_opened_is_one_message(tmp_path, monkeypatch):
    def refused(folder, name, settings):
        raise OSError("no route to the service")

    monkeypatch.setitem(loggers.LOGGERS, "mlflow", refused)
    with pytest.raises(UserError, match=r"^search\.log: mlflow cannot be used: no route to the service$"):
        loggers.Loggers(["mlflow"], "search.log", tmp_path, "name", {})
