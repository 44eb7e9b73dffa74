"""Optimizers, loggers and recipes by name: each keeps the same contract, and what cannot be had is one message."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import torch
from test_training_log import KEY, follow, row

from helpers.trainings import operator_net, small_net
from nas.base.errors import UserError
from nas.config.training import RECIPES, RetrainConfig, recipe, recipe_names
from nas.data.batches import Shard
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.engine import Engine, Stepper
from nas.training.loggers import LOGGERS, PACKAGES, check_loggers
from nas.training.optimizer import OPTIMIZERS, build_optimizer

TIMMS = ("rmsproptf", "lion", "muon", "adopt", "lookahead_adamw")
"""A few of timm's, with different states: averages, momentum alone, matrices, slow weights."""
REFUSED = {
    "adahessian": "needs second derivatives",
    "bnbadam8bit": "CUDA required|bitsandbytes",
    "fusedlamb": "CUDA required|APEX",
    "adamv": "is unknown; allowed are sgd, adamw, lamb and what timm",
}


def stepper(model: torch.nn.Module, config: RetrainConfig) -> Stepper:
    sizes = {"num_train": 48, "steps_per_epoch": 3}
    return Stepper(model, config, Engine(), seed=5, device=torch.device("cpu"), shard=Shard(), **sizes)


def steps(run: Stepper, numbers: range, images: torch.Tensor, num_classes: int) -> list[float]:
    """Losses of steps over the same images."""
    labels = torch.arange(len(images)) % num_classes
    return [run.step(iter([(images, labels)]), number)[0].item() for number in numbers]


@pytest.mark.parametrize("name", [*OPTIMIZERS, *TIMMS])
def test_every_optimizer_learns_and_goes_on_from_a_checkpoint_bit_for_bit(name, tmp_path):
    config = RetrainConfig(optimizer=name, learning_rate=1e-3, warmup_epochs=0, batch_size=16, amp="off", epochs=9)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, begun, resumed = (stepper(small_net(), config) for _ in range(3))
    losses = steps(whole, range(12), images, 10)
    steps(begun, range(5), images, 10)
    save_checkpoint(tmp_path, {part: of.state_dict() for part, of in begun.parts().items()})
    state = load_checkpoint(tmp_path)
    assert state is not None and losses[-1] < losses[0]
    for part, of in resumed.parts().items():
        of.load_state_dict(state[part])
    assert steps(resumed, range(5, 12), images, 10) == losses[5:]
    for mine, theirs in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_cannot_be_had_is_refused(name):
    with pytest.raises(UserError, match=rf"^retrain\.optimizer: .*{name}.*({REFUSED[name]})"):
        build_optimizer(small_net(), RetrainConfig(optimizer=name))


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_takes_a_training_that_goes_on_or_says_what_it_lacks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    if find_spec(PACKAGES[name]) is None:
        with pytest.raises(UserError, match=rf"^retrain\.log: {name} needs the package {PACKAGES[name]}, which is not"):
            check_loggers([name], "retrain.log")
        return
    check_loggers([name], "retrain.log")
    logger = LOGGERS[name](tmp_path, KEY, RetrainConfig().model_dump(mode="json"))
    logger.log({"train_loss": float("nan")}, 0)  # as before the first finite one
    logger.close()
    for epochs in (range(1, 3), range(1, 4)):
        follow(tmp_path / "two lives", epochs, name)
    assert row(1)["train_loss"] == 2 and len([*(tmp_path / "two lives").rglob("*")]) > 1


def test_every_logger_may_be_named_and_no_other():
    (named,) = get_args(RetrainConfig.model_fields["log"].annotation)
    assert set(get_args(named)) == set(LOGGERS) == set(PACKAGES)
    with pytest.raises(ValueError, match="'tensorboard', 'wandb' or 'mlflow'"):
        RetrainConfig.model_validate({"log": ["neptune"]})


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_a_network_of_all_operators_and_is_on_the_page(name):
    """With its own optimizer, loss, mixing and average, at a size that a test can afford."""
    small = {"resolution": 16, "evaluation_resolution": None, "first_resolution": None, "batch_size": 16}
    config = RetrainConfig.model_validate({"recipe": name, **small, "amp": "off"})
    images = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    run = stepper(operator_net(drop_path=config.drop_path), config)
    before = [parameter.clone() for parameter in run.model.parameters()]
    losses = steps(run, range(3, 5), images, 10)
    assert torch.tensor(losses).isfinite().all()
    assert any(not torch.equal(old, new) for old, new in zip(before, run.model.parameters(), strict=True))
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.match(r"(# .*\n)*# .*(https://|of no paper)", text), "a recipe begins with where it comes from"
    page = (Path(__file__).parents[2] / "nas/retrain/README.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    listed = dict(zip(re.findall(r"`(\w+)`", line.split("|")[1]), line.split("|")[2].split(","), strict=True))
    assert int(listed[name]) == recipe(name)["epochs"]
