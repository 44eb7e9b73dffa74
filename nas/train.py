"""The one training loop, for the proxy and for retraining: exact under interruption, one row per epoch."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.batches import Source
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.config import TrainConfig
from nas.optimizer import WeightAverage, build_optimizer
from nas.precision import arrange, autocast, place, training_dtype
from nas.schedule import learning_rate, temperature
from nas.seeds import keyed_seed, seed_global

Gate = Callable[[], AbstractContextManager]
Row = dict[str, float]
GATE_SECONDS = 0.1
CHEAP_SAVE_SECONDS = 0.1


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite: the training cannot go on."""


def train(
    model: nn.Module,
    source: Source,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device | str,
    checkpoint_dir: Path | None = None,
    checkpoint_seconds: float = 10.0,
    key: str = "",
    gate: Gate | None = None,
) -> Iterator[Row]:
    """Train `model` in place and yield one row per epoch.

    A row: epoch (from 1), train_loss, val_loss, top1 (fraction of the validation images), learning_rate (of the last
    step), seconds (of the epoch with its validation), images_per_second (of its steps). With `config.ema` the averaged
    weights are what val_loss and top1 speak of, and what the model holds after the last row.

    With a `checkpoint_dir`, everything is saved at the first step or epoch end that is `checkpoint_seconds` after the
    last save, and a later call with equal arguments goes on from there: it yields the finished rows again, and ends
    with the same weights, bit for bit where the device computes deterministically. Saves that take long are spaced
    out, to 1 % of the time at the default interval. `key` names the network; a checkpoint of another key, config, data
    set or seed is a ValueError.

    `gate()` is held around steps, on a GPU around a tenth of a second of them, so that a measurement can have the
    device alone. Raises NonFiniteLoss, within the epoch in which the loss is no longer finite.
    """
    device = torch.device(device)
    run = _Run(model, source, config, seed, device, _Turns(gate, device))
    text = "\n".join([key, config.model_dump_json(), source.fingerprint, str(seed)])
    saver = _Saver(checkpoint_dir, checkpoint_seconds, hashlib.sha256(text.encode()).hexdigest())
    progress = saver.restore(run) or _Progress(torch.zeros(source.steps_per_epoch, device=device))
    yield from list(progress.curve)
    while progress.epoch < config.epochs:
        with run.turns:
            row = _train_epoch(run, progress, saver)
        progress.curve.append(row)
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        saver.save_if_due(run, progress)
        yield row
    if run.average is not None:
        model.load_state_dict(run.average.model.state_dict())


def evaluate(
    model: nn.Module, source: Source, dtype: torch.dtype | None = None, turn: Gate = nullcontext
) -> tuple[float, float]:
    """Mean cross entropy and top-1 accuracy (0..1) over the validation images, in eval mode; then in training mode.

    `dtype` is what autocast computes in; `turn()` is held around each batch.
    """
    model.eval()
    loss = correct = count = 0
    with torch.inference_mode():
        for images, labels in source.validation_batches():
            with turn(), autocast(images.device, dtype):
                logits = model(arrange(images)).float()
                loss = loss + functional.cross_entropy(logits, labels, reduction="sum")
                correct = correct + (logits.argmax(1) == labels).sum()
                count += len(labels)
    model.train()
    return float(loss) / count, float(correct) / count


@dataclass
class _Progress:
    """Where a training stands; losses holds one value per step of the epoch, so that no step waits for the device."""

    losses: Tensor
    epoch: int = 0
    step: int = 0
    """Steps done in the epoch."""
    seconds: float = 0.0
    """Spent on the epoch by earlier processes."""
    curve: list[Row] = field(default_factory=list)


class _Run:
    """What one process trains with."""

    def __init__(
        self, model: nn.Module, source: Source, config: TrainConfig, seed: int, device: torch.device, turns: _Turns
    ):
        self.model = place(model, device).train()
        self.source, self.config, self.seed, self.device, self.turns = source, config, seed, device, turns
        self.dtype = training_dtype(config.amp, device)
        self.average = None if config.ema is None else WeightAverage(model, config.ema)
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.evaluated = model if self.average is None else self.average.model
        networks = {id(network): network for network in (model, self.evaluated)}.values()
        self.tempered = [part for network in networks for part in network.modules() if hasattr(part, "temperature")]

    def parts(self) -> dict[str, Any]:
        """What has a state_dict of its own."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else parts | {"average": self.average.model}


def _train_epoch(run: _Run, progress: _Progress, saver: _Saver) -> Row:
    started = time.perf_counter() - progress.seconds
    steps_before = progress.epoch * run.source.steps_per_epoch
    for images, labels in run.source.train_batches(progress.epoch, progress.step):
        with run.turns.one():
            loss = _step(run, images, labels, steps_before + progress.step)
            progress.losses[progress.step] = loss
        if run.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NonFiniteLoss(f"loss {loss.item()} in epoch {progress.epoch + 1}, step {progress.step + 1}")
        progress.step += 1
        if saver.due():
            progress.seconds = time.perf_counter() - started
            saver.save_if_due(run, progress)
    losses = progress.losses.tolist()
    trained = time.perf_counter() - started
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"loss {loss} in epoch {progress.epoch + 1}, step {step}")
    val_loss, top1 = evaluate(run.evaluated, run.source, run.dtype, run.turns.one)
    if not math.isfinite(val_loss):
        raise NonFiniteLoss(f"validation loss {val_loss} in epoch {progress.epoch + 1}")
    return {
        "epoch": progress.epoch + 1,
        "train_loss": sum(losses) / len(losses),
        "val_loss": val_loss,
        "top1": top1,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "seconds": time.perf_counter() - started,
        "images_per_second": run.source.num_train / trained,
    }


def _step(run: _Run, images: Tensor, labels: Tensor, step: int) -> Tensor:
    """One step of the optimizer; `step` counts over all epochs. Returns the loss, on its device."""
    config, steps_per_epoch = run.config, run.source.steps_per_epoch
    now: Any = temperature(config, step, steps_per_epoch)
    for module in run.tempered:
        module.temperature = now
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, step, steps_per_epoch)
    seed_global(run.device, run.seed, "step", step)  # for dropout and drop path
    images = arrange(images)
    targets = [(1.0, labels)]
    if config.mixup:
        share = Random(keyed_seed(run.seed, "mixup", step)).betavariate(config.mixup, config.mixup)
        images = images.lerp(images.flip(0), 1 - share)
        targets = [(share, labels), (1 - share, labels.flip(0))]
    with autocast(run.device, run.dtype):
        logits = run.model(images).float()
        loss = torch.stack(
            [
                share * functional.cross_entropy(logits, target, label_smoothing=config.label_smoothing)
                for share, target in targets
            ]
        ).sum()
    run.optimizer.zero_grad()
    run.scaler.scale(loss).backward()
    if config.clip_grad is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update(step)
    return loss.detach()


class _Turns:
    """Holds the gate around steps: around each on a CPU, around GATE_SECONDS of them on a GPU, which is then drained.

    Used as a context, it gives back on leaving what is still held.
    """

    def __init__(self, gate: Gate | None, device: torch.device):
        self._gate, self._device = gate, device
        self._held: AbstractContextManager | None = None
        self._since = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        if self._gate is not None and self._held is None:
            held = self._gate()
            held.__enter__()
            self._held, self._since = held, time.monotonic()
        yield
        if self._device.type == "cpu" or time.monotonic() - self._since >= GATE_SECONDS:
            self.__exit__()

    def __enter__(self) -> _Turns:
        return self

    def __exit__(self, *reason: object) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        try:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        finally:
            held.__exit__(None, None, None)


class _Saver:
    """Saves a training when it is due, and brings a fresh one to where it was last saved."""

    def __init__(self, folder: Path | None, seconds: float, fingerprint: str):
        self._folder, self._seconds, self._fingerprint = folder, seconds, fingerprint
        self._last, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        wait = self._seconds * max(1.0, self._cost / CHEAP_SAVE_SECONDS)
        return self._folder is not None and time.monotonic() - self._last >= wait

    def save_if_due(self, run: _Run, progress: _Progress) -> None:
        if self._folder is None or not self.due():
            return
        started = time.monotonic()
        state = {name: part.state_dict() for name, part in run.parts().items()}
        save_checkpoint(self._folder, state | {"progress": vars(progress), "fingerprint": self._fingerprint})
        self._last = time.monotonic()
        self._cost = self._last - started

    def restore(self, run: _Run) -> _Progress | None:
        state = None if self._folder is None else load_checkpoint(self._folder, run.device)
        if state is None:
            return None
        if state["fingerprint"] != self._fingerprint:
            raise ValueError(f"{self._folder}: checkpoint of another training; network, config, data or seed differ")
        for name, part in run.parts().items():
            part.load_state_dict(state[name])
        return _Progress(**state["progress"])
