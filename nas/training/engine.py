"""Engine: the options of a long training beyond those of a proxy; Stepper: one step of the optimizer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nas.base.seeds import keyed_seed
from nas.config.training import TrainConfig
from nas.data.batches import Batch, Shard, step_size
from nas.networks.precision import autocast, to_device, to_memory_format, training_dtype
from nas.training.mixing import LOSSES, distillation, mix
from nas.training.optimizer import WeightAverage, build_optimizer
from nas.training.process_group import ProcessGroup
from nas.training.process_state import seed_global
from nas.training.schedule import learning_rate, temperature
from nas.training.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What a retraining adds to the loop, and another task; a classifier's proxy does without all of it."""

    task: Task | None = None
    """Of `nas.training.tasks`; None: classification."""
    group: ProcessGroup = field(default_factory=ProcessGroup)
    sync_batch_norm: bool = False
    compile: bool = False
    recompute: bool = False
    teacher: nn.Module | None = None
    distillation: float = 0.5
    distillation_temperature: float = 1.0
    skip_nonfinite: bool = False
    """Skip steps whose gradients are not finite, roll back after several, and only then give up."""
    mixup_epochs: int | None = None
    """Epochs with mixup and cutmix; None: all."""
    evaluate_every: int = 1
    """Epochs from one evaluation to the next; the last is evaluated in any case."""
    patience: int | None = None
    """Epochs without a better top1 after which the training ends; None: it never does."""
    stop: Callable[[], bool] | None = None
    """Asked after each step; on yes everything is saved and Stopped raised, by all processes at the same step."""
    on_step: Callable[[int, int, float, float], None] | None = None
    """Told epoch, steps done in it, seconds of the epoch, seconds of them spent waiting for images."""
    on_epoch: Callable[[dict[str, float], dict[str, nn.Module]], None] | None = None
    """Told each row with the networks `evaluated` and `raw`, in the main process."""


class Stepper:
    """A network with its optimizer, carrying out steps."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        engine: Engine,
        *,
        seed: int,
        device: torch.device,
        shard: Shard,
        num_train: int,
        steps_per_epoch: int,
    ):
        self.config, self.engine, self.seed, self.device, self.shard = config, engine, seed, device, shard
        self.num_train, self.steps_per_epoch = num_train, steps_per_epoch
        if engine.sync_batch_norm and engine.group.world > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = to_device(model, device).train()
        self.dtype = training_dtype(config.amp, device)
        self.average = None if config.ema is None else WeightAverage(model, config.ema, config.ema_warmup)
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.evaluated = model if self.average is None else self.average.model
        networks = {id(network): network for network in (model, self.evaluated)}.values()
        self.tempered = [part for network in networks for part in network.modules() if hasattr(part, "temperature")]
        # running statistics: what a forward pass changes, and what processes must agree on
        self.statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.kept = [buffer.clone() for buffer in self.statistics] if engine.skip_nonfinite else []
        if engine.recompute:
            model.set_grad_checkpointing()  # type: ignore[operator]
        self.forward: nn.Module = Compiled(model) if engine.compile else model
        self.parallel: DistributedDataParallel | None = None
        if engine.group.world > 1:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # newer names for broadcast_buffers, absent in torch 2.11
                self.parallel = DistributedDataParallel(
                    self.forward,
                    device_ids=[device] if device.type == "cuda" else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
            self.forward = self.parallel

    def parts(self) -> dict[str, Any]:
        """What has a state_dict of its own."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else parts | {"average": self.average.model}

    def prepare(self, step: int) -> None:
        """Set what changes with the step, counted over all epochs."""
        now: Any = temperature(self.config, step, self.steps_per_epoch)
        for module in self.tempered:
            module.temperature = now
        rate = learning_rate(self.config, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def step(self, batches: Iterator[Batch], step: int) -> tuple[Tensor, bool, bool]:
        """One step of the optimizer over this process's shard of the images.

        Returns the mean loss over all processes, on its device, whether the step was taken, and whether to stop.
        """
        self.prepare(step)
        if self.kept:
            torch._foreach_copy_(self.kept, self.statistics)
        self.optimizer.zero_grad()
        total = step_size(self.num_train, self.steps_per_epoch, step % self.steps_per_epoch)
        loss: Any = 0.0
        for part in range(self.shard.accumulation_steps):
            images, labels = next(batches)
            last = part == self.shard.accumulation_steps - 1
            with nullcontext() if last or self.parallel is None else self.parallel.no_sync():
                # every image weighs the same, in whatever part of whichever process it is; DDP averages over processes
                weight = len(labels) / total
                partial_loss = self._loss(images, labels, step, part)
                self.scaler.scale(
                    partial_loss if weight == 1 else partial_loss * (weight * self.shard.world)
                ).backward()
                loss = loss + (partial_loss.detach() if weight == 1 else partial_loss.detach() * weight)
        loss, stop = self._agree(loss)
        return loss, self._update(loss, step), stop

    def _loss(self, images: Tensor, labels: Tensor, step: int, part: int) -> Tensor:
        config, engine = self.config, self.engine
        name = (step,) if self.shard == Shard() else (step, self.shard.rank, part)
        seed_global(self.device, self.seed, "step", *name)  # for dropout and drop path
        images = to_memory_format(images)
        if engine.task is not None:
            with autocast(self.device, self.dtype):
                return engine.task.loss(self.forward, images, labels)
        share = 1.0
        mixes = engine.mixup_epochs is None or step < engine.mixup_epochs * self.steps_per_epoch
        if mixes and (config.mixup or config.cutmix):
            images, share = mix(images, config, keyed_seed(self.seed, "mixup", *name))
        with autocast(self.device, self.dtype):
            logits = self.forward(images)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            loss = LOSSES[config.loss](logits, labels, share, config)
            if engine.teacher is not None:
                with torch.no_grad():
                    taught = engine.teacher(images)
                lesson = distillation(logits, taught, engine.distillation_temperature)
                loss = (1 - engine.distillation) * loss + engine.distillation * lesson
        return loss

    def _agree(self, loss: Tensor) -> tuple[Tensor, bool]:
        """The loss over all processes, and whether one of them was told to stop; running statistics are averaged."""
        engine = self.engine
        asked = engine.stop is not None and engine.stop()
        if engine.group.world == 1:
            return loss, asked
        own = torch.stack([loss.double(), loss.new_tensor(float(asked), dtype=torch.float64)])
        engine.group.sum(own)
        if self.statistics and not engine.sync_batch_norm:
            flat = torch.cat([buffer.flatten() for buffer in self.statistics])
            engine.group.sum(flat).div_(engine.group.world)
            sizes = [buffer.numel() for buffer in self.statistics]
            for buffer, mean in zip(self.statistics, flat.split(sizes), strict=True):
                buffer.copy_(mean.view_as(buffer))
        return own[0].to(loss.dtype), bool(own[1] > 0)

    def _update(self, loss: Tensor, step: int) -> bool:
        """Take the step, unless steps that are not finite are skipped and this is one."""
        config, engine = self.config, self.engine
        norm = None
        if config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        if engine.skip_nonfinite:
            if norm is None and not self.scaler.is_enabled():
                norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
            # with a scaler, gradients that overflow are its business; a loss that does is not
            checked = loss if norm is None or self.scaler.is_enabled() else loss + norm
            if not math.isfinite(checked.item()):
                torch._foreach_copy_(self.statistics, self.kept)
                if self.scaler.is_enabled():
                    self.scaler.update()
                return False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(step)
        return True


class Compiled(nn.Module):
    """A network compiled, or, where that fails, from then on as it is."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._compiled: Callable[[Tensor], Tensor] | None = torch.compile(model.forward)

    def forward(self, images: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                return self._compiled(images)
            except Exception as error:  # compilers fail in many ways; the plain network says which are not theirs
                reason = str(error).strip().splitlines()
                log.warning("torch.compile failed, training goes on without: %s", reason[0] if reason else error)
                self._compiled = None
        return self.model(images)
