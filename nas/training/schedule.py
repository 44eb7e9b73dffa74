"""What changes from step to step of a training: learning rate, ODConv's temperature, the size of the images."""

from __future__ import annotations

import math

from nas.config.training import TrainConfig

FIRST_TEMPERATURE = 30.0
TEMPERATURE_SHARE = 0.1
"""Of the epochs: 10 of 100 are published."""


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs; layer decay comes on top.

    Without `warmup_learning_rate` the warm-up ends before the schedule begins, and takes half of the training at most.
    With it the warm-up replaces the beginning of the schedule. `update: epoch` holds the value through each epoch.
    After `config.epochs` it stays where the schedule ends.
    """
    peak = config.peak_learning_rate
    length = steps_per_epoch if config.update == "step" else 1
    now, total = step * length // steps_per_epoch, config.epochs * length
    warmup = round(config.warmup_epochs * length)
    start = config.warmup_learning_rate
    if start is None:
        warmup = min(warmup, total // 2)
    if now < warmup:
        if start is None:
            return peak * (now + 1) / warmup
        return start + now * ((peak - start) / warmup)
    if config.schedule == "step":
        passed = sum(now >= epoch * length for epoch in config.decay_epochs)
        return peak * config.decay_rate**passed
    if start is None:
        now, total = now - warmup, total - warmup
    low, now = config.final_learning_rate, min(now, total)
    return low + 0.5 * (peak - low) * (1 + math.cos(math.pi * now / total))


def temperature(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """ODConv's temperature: from 30 down to 1 in equal steps over `config.temperature_epochs`, then 1.

    Paper: Omni-Dimensional Dynamic Convolution, https://openreview.net/forum?id=DmpCfq6Mg39, section 4.1.
    """
    epochs = config.temperature_epochs
    cooling = (TEMPERATURE_SHARE * config.epochs if epochs is None else epochs) * steps_per_epoch
    return 1.0 if step >= cooling else FIRST_TEMPERATURE + (1 - FIRST_TEMPERATURE) * step / cooling
