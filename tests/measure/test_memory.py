"""What a training needs, counted without allocating it, and what is said where that is not there."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from helpers.retrainings import mixed_network
from nas.config.training import RetrainConfig, TrainConfig
from nas.measure.cost import num_params
from nas.networks.model import Network, build_model
from nas.retrain.job import RetrainError
from nas.retrain.memory import TrainingMemory, memory_bytes, training_memory
from nas.retrain.worker import check_memory

CPU = torch.device("cpu")


def test_training_memory_by_hand():
    """What each convolution and ReLU keeps: its input, its result; nothing of it is allocated."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 4, 1))

    weights, pixels = 4 * num_params(build()), 10**6 * 4
    shape = (4, 3, 500, 500)
    plain = training_memory(build, shape, TrainConfig(optimizer="sgd", amp="off"), CPU)
    assert plain == TrainingMemory(2 * weights, weights, pixels * (3 + 64 + 64 + 4))
    config = TrainConfig(optimizer="adamw", ema=0.9, amp="bfloat16")
    mixed = training_memory(build, shape, config, CPU)
    assert mixed.lasting == 4 * weights
    assert 0.5 * plain.activations < mixed.activations < 0.55 * plain.activations  # images and casts of weights beside
    assert mixed.total(0) == 5 * weights and mixed.total(0.5) == 4 * weights + 0.5 * mixed.activations


def test_training_memory_of_parts_that_are_computed_again():
    """Less is kept with recomputation; images cost alike."""
    shape, config = (16, 3, 32, 32), TrainConfig(amp="off")

    def build(recompute: bool) -> Network:
        model = build_model(mixed_network(), num_classes=10)
        model.set_grad_checkpointing(recompute)
        return model

    kept, again = (
        training_memory(lambda recompute=recompute: build(recompute), shape, config, CPU) for recompute in (False, True)
    )
    assert again.activations < 0.5 * kept.activations
    assert (again.lasting, again.gradients) == (kept.lasting, kept.gradients)


@pytest.mark.parametrize(
    "there, message",
    [
        (700, None),
        (699, r"retrain.batch_size: 10 images at once .* --set retrain.device_batch_size=7 accumulates"),
        (450, "--set retrain.device_batch_size=3 accumulates"),
        (350, "--set retrain.device_batch_size=1 accumulates"),
        (299, "retrain.optimizer: the weights, their gradients and the state of adamw need at least 0.0 GB"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(there, message):
    need, config = TrainingMemory(lasting=200, gradients=100, activations=500), RetrainConfig(optimizer="adamw")
    with pytest.raises(RetrainError, match=message) if message else nullcontext():
        check_memory(need, there, 10, config, CPU)


def test_not_one_image_fits():
    need = TrainingMemory(lasting=200, gradients=1, activations=500)
    with pytest.raises(RetrainError, match="not even one fits"):
        check_memory(need, 249, 10, RetrainConfig(), CPU)


def test_there_is_some_memory():
    assert 1e8 < memory_bytes(CPU) < 1e14
