"""The one training loop, for the proxy and for retraining: exact under interruption, one row per epoch."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.base.errors import Interrupted, UserError
from nas.config.training import TrainConfig
from nas.data.batches import Batch, Source
from nas.networks.precision import autocast, to_memory_format
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.engine import Engine, Stepper
from nas.training.process_group import ProcessGroup

Lock = Callable[[], AbstractContextManager]
Row = dict[str, float]
Count = Callable[[Tensor, Tensor], Tensor]
"""Logits [N, C] and labels [N] of a batch -> float64 [4] to be added up, as `count_right` gives it."""
LOCK_SECONDS = 0.1
CHEAP_SAVE_SECONDS = 0.1


MAX_CONSECUTIVE_SKIPS = 4
"""Steps in a row that may be skipped before a training is rolled back."""
ROLL_BACKS = 3
log = logging.getLogger(__name__)


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite: the training cannot go on."""


class Stopped(Interrupted):
    """The training was asked to stop; everything is saved."""


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
    device_lock: Lock | None = None,
    save_at: Container[int] = (),
    on_save: Callable[[], None] | None = None,
    save_now: Callable[[], bool] | None = None,
    engine: Engine | None = None,
) -> Iterator[Row]:
    """Train `model` in place and yield one row per epoch.

    A row: epoch (from 1), train_loss, val_loss, top1 (fraction of the validation images), learning_rate (of the last
    step), seconds (of the epoch with its validation), images_per_second (of its steps). With `config.ema` the averaged
    weights are what val_loss and top1 speak of, and what the model holds after the last row. What stands in the place
    of these two with another task than classification, `engine.task` says.

    With a `checkpoint_dir`, everything is saved at the first step or epoch end that is `checkpoint_seconds` after the
    last save, and a later call with equal arguments goes on from there: it yields the finished rows again, and ends
    with the same weights, bit for bit where the device computes deterministically. Saves that take long are spaced
    out, to 1 % of the time at the default interval. After the epochs `save_at` everything is saved in any case.
    `on_save()` is called after each save, whose time it is counted to. `save_now()` is asked after each step whether to
    save at once.
    `key` names the network; a checkpoint of another key, config (but for `config.NOT_IN_FINGERPRINT`), data set or
    seed is a ValueError.

    `device_lock()` is held around steps, on a GPU around a tenth of a second of them, so that a measurement can hold
    the device exclusively. Raises NonFiniteLoss, within the epoch in which the loss is no longer finite.

    `engine` is what a long training has beyond this; its rows also have top5, wait_share (of the time, spent waiting
    for images), skipped_steps, with `config.ema` raw_top1, on a GPU peak_memory_mb; those of epochs that are not
    evaluated have no accuracies. With several processes each calls
    this with its shard of the source, and gets the same rows; the main one writes.
    """
    device = torch.device(device)
    engine = engine or Engine()
    run = _Run(model, source, config, seed, device, engine)
    held = _StepLock(device_lock, device)
    text = "\n".join([key, config.model_dump_json(exclude=config.NOT_IN_FINGERPRINT), source.fingerprint, str(seed)])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    saver = _Saver(checkpoint_dir, checkpoint_seconds, fingerprint, engine.group, on_save, save_now)
    progress = saver.restore(run)
    if progress is None:
        progress = _Progress(torch.zeros(source.steps_per_epoch, device=device))
        if engine.skip_nonfinite:
            saver.save(run, progress)  # what a first roll-back returns to
    yield from list(progress.curve)
    roll_backs = 0
    while progress.epoch < config.num_epochs and not _out_of_patience(engine.patience, progress.curve):
        try:
            with held:
                row = _train_epoch(run, progress, saver, held)
        except _RollBack as reason:
            roll_backs, skipped, reached = roll_backs + 1, progress.skipped, len(progress.curve)
            progress = saver.restore(run)
            if progress is None or roll_backs > ROLL_BACKS:
                raise NonFiniteLoss(f"{reason}; {roll_backs - 1} returns to the last checkpoint did not help") from None
            log.warning("%s: back to epoch %d, step %d", reason, progress.epoch + 1, progress.step)
            progress.skipped = sorted({*progress.skipped, *skipped})
            assert len(progress.curve) == reached, "a finished epoch is saved before the next begins"
            continue
        progress.curve.append(row)
        progress.epoch, progress.step, progress.seconds, progress.waited = progress.epoch + 1, 0, 0.0, 0.0
        if engine.skip_nonfinite or progress.epoch in save_at:
            saver.save(run, progress)
        else:
            saver.save_if_due(run, progress)
        yield row
    if run.stepper.average is not None:
        model.load_state_dict(run.stepper.average.model.state_dict())


def evaluate(
    model: nn.Module, source: Evaluated, dtype: torch.dtype | None = None, lock: Lock = nullcontext
) -> tuple[float, float]:
    """Mean cross entropy and top-1 accuracy (0..1) over the validation images, in eval mode; then in training mode.

    `dtype` is what autocast computes in; `lock()` is held around each batch.
    """
    score = measure_score(model, source, dtype, lock)
    return score.loss, score.top1


@dataclass(frozen=True)
class Score:
    """Mean cross entropy, the shares of images whose class is the first guess, or one of the first five, and how many
    images there were."""

    loss: float
    top1: float
    top5: float
    count: int

    @property
    def row(self) -> Row:
        """The columns of an epoch's row."""
        return {"val_loss": self.loss, "top1": self.top1}


class Evaluated(Protocol):
    """What has images to evaluate on."""

    def validation_batches(self) -> Iterator[Batch]: ...


def measure_score(
    model: nn.Module,
    source: Evaluated,
    dtype: torch.dtype | None = None,
    lock: Lock = nullcontext,
    group: ProcessGroup | None = None,
) -> Score:
    """Evaluate on the validation images of all processes of `group`, in eval mode; then in training mode."""
    return measure_scores(model, source, [dtype], lock, group)[0][0]


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """float64 [4]: cross entropy, first guesses and first five guesses that are right, images."""
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    right = [guesses[:, 0].sum().double(), guesses.sum().double()]
    return torch.stack([loss.double(), *right, torch.full_like(right[0], len(labels))])


def measure_scores(
    model: nn.Module,
    source: Evaluated,
    dtypes: Sequence[torch.dtype | None],
    lock: Lock = nullcontext,
    group: ProcessGroup | None = None,
    counts: Sequence[Count] = (count_right,),
) -> list[list[Score]]:
    """As `measure_score` does, under autocast to each of some dtypes, and counted in each of some ways, with the images
    read once and one forward pass per dtype; [dtype][way]."""
    model.eval()
    sums: Any = 0.0
    with torch.inference_mode():
        for images, labels in source.validation_batches():
            with lock():
                sums = sums + torch.stack([_sums(model, images, labels, dtype, counts) for dtype in dtypes])
    model.train()
    found = (group.sum(sums) if group else sums).tolist()
    return [
        [Score(loss / count, top1 / count, top5 / count, int(count)) for loss, top1, top5, count in ways]
        for ways in found
    ]


def _sums(
    model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype | None, counts: Sequence[Count]
) -> Tensor:
    """float64 [ways, 4], see `count_right`."""
    with autocast(images.device, dtype):
        logits = model(to_memory_format(images))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.stack([count(logits, labels) for count in counts])


@dataclass
class _Progress:
    """Where a training stands; losses holds one value per step of the epoch, so that no step waits for the device."""

    losses: Tensor
    epoch: int = 0
    step: int = 0
    """Steps done in the epoch."""
    seconds: float = 0.0
    """Spent on the epoch by earlier processes."""
    waited: float = 0.0
    """Of these, spent waiting for images."""
    curve: list[Row] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """Steps that were not finite, counted over all epochs."""


def _out_of_patience(patience: int | None, curve: Sequence[Row]) -> bool:
    """Whether so many epochs in a row were no better than one before."""
    if patience is None or not curve or "top1" not in curve[-1]:
        return False
    accuracies = [row.get("top1", 0.0) for row in curve]
    return len(curve) - 1 - accuracies.index(max(accuracies)) >= patience


class _Run:
    """What one process trains with."""

    def __init__(
        self, model: nn.Module, source: Source, config: TrainConfig, seed: int, device: torch.device, engine: Engine
    ):
        self.source, self.config, self.seed, self.engine, self.device = source, config, seed, engine, device
        self.stepper = Stepper(
            model,
            config,
            engine,
            seed=seed,
            device=device,
            shard=source.shard,
            num_train=source.num_train,
            steps_per_epoch=source.steps_per_epoch,
        )


def _train_epoch(run: _Run, progress: _Progress, saver: _Saver, held: _StepLock) -> Row:
    """Take the steps that are left of an epoch, evaluate, and return the epoch's row."""
    started = time.perf_counter() - progress.seconds
    _take_steps(run, progress, saver, held, started)
    stepper, steps_before = run.stepper, progress.epoch * run.source.steps_per_epoch
    stepper.prepare(steps_before + run.source.steps_per_epoch - 1)  # an earlier process may have made the last step
    losses = progress.losses.tolist()
    trained = time.perf_counter() - started
    taken_losses = [loss for step, loss in enumerate(losses) if steps_before + step not in progress.skipped]
    for step, loss in enumerate(taken_losses, start=1):
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"loss {loss} in epoch {progress.epoch + 1}, step {step}")
    epoch, is_long = progress.epoch + 1, run.engine.on_epoch is not None
    score = None
    if epoch % run.engine.evaluate_every == 0 or epoch == run.config.num_epochs:
        measured = measure_score if run.engine.task is None else run.engine.task.score
        score = measured(stepper.evaluated, run.source, stepper.dtype, held.step, run.engine.group)
        if not math.isfinite(loss := score.row.get("val_loss", 0.0)):
            raise NonFiniteLoss(f"validation loss {loss} in epoch {epoch}")
    row = {
        "epoch": epoch,
        "train_loss": sum(taken_losses) / max(len(taken_losses), 1),
        **(score.row if score else {}),
        "learning_rate": stepper.optimizer.param_groups[-1]["lr"],
        "seconds": time.perf_counter() - started,
        "images_per_second": run.source.num_train / trained,
    }
    if is_long:
        row |= {"wait_share": progress.waited / trained, "skipped_steps": len(progress.skipped)}
        if run.device.type == "cuda":
            row["peak_memory_mb"] = torch.cuda.max_memory_allocated(run.device) / 1e6
        if isinstance(score, Score):
            _add_figures(run, row, score)
    return row


def _add_figures(run: _Run, row: Row, score: Score) -> None:
    """What an evaluated row of a long training has beyond, and told to whoever keeps its weights."""
    stepper, engine = run.stepper, run.engine
    row["top5"] = score.top5
    if stepper.average is not None:
        row["raw_top1"] = measure_score(stepper.model, run.source, stepper.dtype, group=engine.group).top1
    if engine.group.is_main and engine.on_epoch is not None:
        engine.on_epoch(row, {"evaluated": stepper.evaluated, "raw": stepper.model})


def _take_steps(run: _Run, progress: _Progress, saver: _Saver, held: _StepLock, started: float) -> None:
    """Take the steps that are left of an epoch that began at `started`, and save when it is due."""
    engine, stepper = run.engine, run.stepper
    steps_before = progress.epoch * run.source.steps_per_epoch
    batches = _Timed(run.source.train_batches(progress.epoch, progress.step), progress.waited)
    while progress.step < run.source.steps_per_epoch:
        step, stop = steps_before + progress.step, False
        if step in progress.skipped:
            for _ in range(run.source.shard.accumulation_steps):
                next(batches)
        else:
            with held.step():
                loss, taken, stop = stepper.step(batches, step)
                progress.losses[progress.step] = loss
            if not taken:
                _skip_step(progress, step, loss)
            elif run.device.type == "cpu" and not engine.skip_nonfinite and not math.isfinite(loss.item()):
                raise NonFiniteLoss(f"loss {loss.item()} in epoch {progress.epoch + 1}, step {progress.step + 1}")
        progress.step += 1
        progress.seconds, progress.waited = time.perf_counter() - started, batches.seconds
        if stop:
            saver.save(run, progress)
            raise Stopped(f"stopped in epoch {progress.epoch + 1} after step {progress.step}")
        saver.save_if_due(run, progress)
        if engine.on_step is not None and engine.group.is_main:
            engine.on_step(progress.epoch, progress.step, progress.seconds, progress.waited)


class _Timed:
    """An iterator that adds up the seconds that its user waits for it."""

    def __init__(self, batches: Iterator[Batch], seconds: float):
        self._batches, self.seconds = batches, seconds

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        batch = next(self._batches)
        self.seconds += time.perf_counter() - begin
        return batch


def _skip_step(progress: _Progress, step: int, loss: Tensor) -> None:
    """Note a step that was not taken; raises _RollBack after several in a row."""
    progress.skipped.append(step)
    log.warning("epoch %d, step %d skipped: loss or gradient not finite", progress.epoch + 1, progress.step + 1)
    if progress.skipped[-MAX_CONSECUTIVE_SKIPS:] == list(range(step - MAX_CONSECUTIVE_SKIPS + 1, step + 1)):
        raise _RollBack(f"loss {loss.item()} in epoch {progress.epoch + 1}, step {progress.step + 1}")


class _RollBack(Exception):
    """Steps that are not finite do not end: the training goes back to its last checkpoint."""


class _StepLock:
    """Holds the lock of the device around each step on a CPU, around LOCK_SECONDS of them on a GPU, then synchronised.

    Used as a context, it releases on leaving what is still held.
    """

    def __init__(self, lock: Lock | None, device: torch.device):
        self._lock, self._device = lock, device
        self._held: AbstractContextManager | None = None
        self._since = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        if self._lock is not None and self._held is None:
            held = self._lock()
            held.__enter__()
            self._held, self._since = held, time.monotonic()
        yield
        if self._device.type == "cpu" or time.monotonic() - self._since >= LOCK_SECONDS:
            self.__exit__()

    def __enter__(self) -> _StepLock:
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
    """Saves a training when it is due, and restores the last save; only the main process writes."""

    def __init__(
        self,
        folder: Path | None,
        seconds: float,
        fingerprint: str,
        group: ProcessGroup,
        on_save: Callable[[], None] | None = None,
        save_now: Callable[[], bool] | None = None,
    ):
        self._folder, self._seconds, self._fingerprint, self._group = folder, seconds, fingerprint, group
        self._on_save, self._save_now = on_save, save_now
        self._last, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        if self._save_now is not None and self._save_now():
            return True
        wait = self._seconds * max(1.0, self._cost / CHEAP_SAVE_SECONDS)
        return self._folder is not None and self._group.is_main and time.monotonic() - self._last >= wait

    def save_if_due(self, run: _Run, progress: _Progress) -> None:
        if self.due():
            self.save(run, progress)

    def save(self, run: _Run, progress: _Progress) -> None:
        if self._folder is None or not self._group.is_main:
            return
        started = time.monotonic()
        state = {name: part.state_dict() for name, part in run.stepper.parts().items()}
        save_checkpoint(self._folder, state | {"progress": vars(progress), "fingerprint": self._fingerprint})
        if self._on_save is not None:
            self._on_save()
        self._last = time.monotonic()
        self._cost = self._last - started

    def restore(self, run: _Run) -> _Progress | None:
        self._group.wait()  # the main process may still be writing
        state = None if self._folder is None else load_checkpoint(self._folder, run.device)
        if state is None:
            return None
        if state["fingerprint"] != self._fingerprint:
            raise UserError(f"{self._folder}: checkpoint of another training; network, config, data or seed differ")
        for name, part in run.stepper.parts().items():
            part.load_state_dict(state[name])
        return _Progress(**state["progress"])
