"""The training of a supernet by the one loop, and the network of a genotype with the weights that it inherits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.config.training import TrainConfig
from nas.data.batches import Batch, Shard, Source
from nas.networks.model import Network, build_model
from nas.networks.precision import autocast, to_device, to_memory_format
from nas.networks.shared.supernet import Supernet
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace
from nas.training.engine import Engine
from nas.training.loop import Row, train
from nas.training.result import DESCRIPTION, WEIGHTS, write_result

CALIBRATION_IMAGES = 512
SIZES = ("num_classes", "in_channels", "num_paths", "seed")


class SeveralPaths:
    """A source whose batches come `num_paths` times each: once for every network of a step."""

    def __init__(self, source: Source, num_paths: int):
        assert source.shard == Shard(), "several processes choose networks apart"
        self.source, self.num_paths = source, num_paths
        self.num_classes, self.class_names, self.in_channels = (
            source.num_classes,
            source.class_names,
            source.in_channels,
        )
        self.num_train, self.num_validation = source.num_train * num_paths, source.num_validation
        self.steps_per_epoch, self.fingerprint = source.steps_per_epoch, f"{source.fingerprint} x {num_paths}"
        self.shard = Shard(accumulation_steps=num_paths)

    def train_batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for batch in self.source.train_batches(epoch, start_step):
            for _ in range(self.num_paths):
                yield batch

    def validation_batches(self) -> Iterator[Batch]:
        return self.source.validation_batches()


class _Largest(nn.Module):
    """What the largest network of a step said of the images, which the others learn."""

    def __init__(self, net: Supernet):
        super().__init__()
        self._net = [net]  # not a part of this

    def forward(self, images: Tensor) -> Tensor:
        taught = self._net[0].taught
        assert taught is not None, "the largest network comes first"
        return taught


def train_supernet(
    net: Supernet, source: Source, config: TrainConfig, distillation: float = 0.0, **options: Any
) -> Iterator[Row]:
    """Train `net` in place; yields rows as `nas.training.loop.train` does, whose options it takes.

    A step is `net.num_paths` networks, one after the other on the same images: the gradients add up. There is no
    stochastic depth: networks change with every step. `distillation` is
    the share of what the largest network of a step says in the loss of the others (in-place distillation); with mixed
    images, which each network has in its own way, it must be 0. top1 of a row is of networks of any size, another for
    each batch.
    """
    assert not (distillation and (config.mixup or config.cutmix)), "a network would learn of other images than its own"
    engine = Engine(teacher=_Largest(net), distillation=distillation) if distillation else Engine()
    return train(net, SeveralPaths(source, net.num_paths), config, engine=engine, **options)


def write_supernet(folder: Path, net: Supernet, source: Source, described: dict[str, Any]) -> None:
    """Write a supernet that `read_supernet` reads; `described` is for people."""
    sizes = {name: getattr(net, name) for name in SIZES}
    write_result(folder, net, described | sizes | {"class_names": list(source.class_names)})


def read_supernet(folder: Path, space: SearchSpace) -> Supernet:
    """A supernet of `space` with its weights, on the CPU."""
    found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    net = Supernet(space, *(found[name] for name in SIZES))
    net.load_state_dict(load_file(folder / WEIGHTS))
    return net


def inheriting(
    net: Supernet, genotype: Genotype, source: Source, device: torch.device, dtype: torch.dtype | None = None
) -> Network:
    """The network of a genotype with the weights of a supernet, on `device`; its norms have seen CALIBRATION_IMAGES of
    the training, or all, whose statistics are the network's own. Raises NotShared for one that is not of the space."""
    model = build_model(genotype, net.num_classes, net.in_channels)
    model.load_state_dict(net.inherited(genotype), strict=False)
    to_device(model, device)
    _calibrate(model, source, dtype)
    return model


@torch.no_grad()
def _calibrate(model: nn.Module, source: Source, dtype: torch.dtype | None = None) -> None:
    """Give fresh batch norms the statistics of the first images of an epoch, each batch counting alike."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    model.train()
    seen = 0
    for images, _ in source.train_batches(0):
        with autocast(images.device, dtype):
            model(to_memory_format(images))
        seen += len(images)
        if seen >= CALIBRATION_IMAGES:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
