"""What a training needs at least of a device's memory, and how much there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nas.base.machine import host_memory
from nas.config.training import TrainConfig
from nas.measure.memory import LiveStorages
from nas.networks.precision import autocast, to_memory_format, training_dtype
from nas.training.optimizer import num_states


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training holds at least."""

    lasting: int
    """From step to step: weights, statistics, the optimizer's numbers for each weight, the average."""
    gradients: int
    activations: int
    """What is alive at the end of the forward pass for the sake of the backward pass, and the images."""

    def total(self, share: float = 1.0) -> float:
        """With this share of the images."""
        return self.lasting + max(self.gradients, self.activations * share)


def training_memory(
    build: Callable[[], nn.Module], input_shape: tuple[int, int, int, int], config: TrainConfig, device: torch.device
) -> TrainingMemory:
    """What a training step of the network that `build()` makes needs at least, in the precision of the training.

    Nothing of it is allocated, and nothing computed. Workspaces of single operations are not in it.
    """
    with FakeTensorMode():
        with torch.device(device):
            model = build().train()
        images = torch.empty(input_shape, device=device)
        held = LiveStorages()
        for tensor in (*model.parameters(), *model.buffers()):
            held.add(tensor)
        network = held.live
        with held, autocast(device, training_dtype(config.amp, device)):
            held.add(images)
            logits = model(to_memory_format(images))  # keeps the activations
        activations = held.live - network
        del logits
    weights = sum(parameter.nbytes for parameter in model.parameters())
    lasting = network * (1 if config.ema is None else 2) + weights * num_states(config)
    return TrainingMemory(lasting, weights, activations)


def memory_bytes(device: torch.device) -> int:
    """What a process can have: a GPU's free memory and what torch holds of it, or the host's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return host_memory()
