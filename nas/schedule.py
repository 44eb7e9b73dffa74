"""What changes from step to step of a training: learning rate and ODConv's temperature."""

from __future__ import annotations

import math

from nas.config import TrainConfig

FIRST_TEMPERATURE = 30.0


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up to `config.learning_rate`, then half a cosine to zero; `step` counts from 0 over all epochs.

    The warm-up takes half of the training at most.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def temperature(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """ODConv's softmax temperature: from 30 down to 1 in equal steps over `config.temperature_epochs`, then 1.

    Paper: Omni-Dimensional Dynamic Convolution, https://openreview.net/forum?id=DmpCfq6Mg39, section 4.1.
    """
    cooling = config.temperature_epochs * steps_per_epoch
    return 1.0 if step >= cooling else FIRST_TEMPERATURE + (1 - FIRST_TEMPERATURE) * step / cooling
