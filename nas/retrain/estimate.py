"""Estimates how long a retraining takes, from measured steps whose result is thrown away."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import torch

from nas.config.training import resolution
from nas.data.batches import Batch, Source
from nas.networks.precision import autocast, to_memory_format
from nas.retrain.job import Job
from nas.retrain.worker import memory_explained, set_up
from nas.training.engine import Stepper
from nas.training.process_group import ProcessGroup

WARM_STEPS, MOST_STEPS = 2, 200


def estimate(job: Job, num_processes: int = 1, seconds: float = 20.0) -> dict[str, Any]:
    """Measure up to 200 steps and some batches of the evaluation, `seconds` each at most, on one device; nothing is
    written but the index or the cache of the images.

    Returns hours, step_seconds, images_per_second (over all devices), wait_share (of the steps, spent waiting for
    images), num_steps measured, on a GPU peak_memory_mb. Images that grow count by their pixels. The exchange between
    several devices is not in it. Raises RetrainError where a step does not fit into the memory.
    """
    setup = set_up(job, ProcessGroup(0, num_processes, 0))
    config, device, source = setup.config, setup.device, setup.source
    stepper = Stepper(
        setup.model,
        config,
        replace(setup.engine, group=ProcessGroup(), sync_batch_norm=False),
        seed=job.seed,
        device=device,
        shard=source.shard,
        num_train=source.num_train,
        steps_per_epoch=source.steps_per_epoch,
    )
    with memory_explained(setup):
        steps, took, waited = _measure_steps(stepper, source, seconds)
        evaluation = _measure_evaluation(stepper, source, seconds) * (1 if stepper.average is None else 2)
    pixels = [resolution(config, epoch) ** 2 for epoch in range(config.num_epochs)]
    step_seconds = took / steps
    training = step_seconds * source.steps_per_epoch * sum(pixels) / pixels[0]
    found = {
        "hours": (training + evaluation * config.num_epochs) / 3600,
        "step_seconds": step_seconds,
        "images_per_second": source.num_train / source.steps_per_epoch / step_seconds,
        "wait_share": waited / took,
        "num_steps": steps,
    }
    if device.type == "cuda":
        found["peak_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return found


def _measure_steps(stepper: Stepper, source: Source, most_seconds: float) -> tuple[int, float, float]:
    """Steps, their seconds, and how many of these went by waiting for images."""
    waited = 0.0

    def batches():
        nonlocal waited
        for epoch in itertools.count():
            delivered = source.train_batches(epoch)
            while True:
                begin = time.perf_counter()
                batch: Batch | None = next(delivered, None)
                waited += time.perf_counter() - begin
                if batch is None:
                    break
                yield batch

    endless = batches()
    for step in range(WARM_STEPS):
        stepper.step(endless, step)
    _finish(stepper.device)
    waited, steps, begin = 0.0, 0, time.perf_counter()
    while steps < MOST_STEPS and (steps < WARM_STEPS or time.perf_counter() - begin < most_seconds):
        stepper.step(endless, WARM_STEPS + steps)
        steps += 1
    _finish(stepper.device)
    return steps, time.perf_counter() - begin, waited


def _measure_evaluation(stepper: Stepper, source: Source, most_seconds: float) -> float:
    """Seconds of an evaluation, from as many batches as fit into the time.

    The first warms up, as the loader starts for it; a second pass has enough of them where there are few.
    """
    count, begin = -1, 0.0
    stepper.model.eval()
    with torch.inference_mode():
        for images, _ in itertools.chain.from_iterable(source.validation_batches() for _ in range(2)):
            with autocast(images.device, stepper.dtype):
                stepper.model(to_memory_format(images))
            if count < 0:
                _finish(stepper.device)
                count, begin = 0, time.perf_counter()
                continue
            count += len(images)
            if time.perf_counter() - begin > most_seconds:
                break
    _finish(stepper.device)
    num_images = -(-source.num_validation // source.shard.world)
    return (time.perf_counter() - begin) * num_images / max(count, 1)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
