"""Small trainings on the digits for the tests: settings, networks, and what a training must repeat bit for bit."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from nas.config.sections import ProxyConfig
from nas.data.sources import open_source
from nas.networks.model import build_model
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.loop import train

TIMES = ("seconds", "images_per_second")
FULL = {"mixup": 0.2, "ema": 0.9, "label_smoothing": 0.1, "temperature_epochs": 1, "augment": "crop_flip"}


class Interrupted(Exception):
    """Raised in the middle of a training."""


def config(**changes) -> ProxyConfig:
    small = {"epochs": 2, "batch_size": 64, "resolution": 8, "max_images_per_class": 40, "amp": "off"}
    return ProxyConfig(**{**small, **changes})


def small_net(dropout: float = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        layer
        for before, after in ((1, 32), (32, 64))
        for layer in (nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


def operator_net(drop_path: float = 0.1) -> nn.Module:
    """A small network with ODConv, involution, SC-conv and gnConv in it."""
    torch.manual_seed(0)
    operators = (specs.ODConv(), specs.Involution(kernel_size=3), specs.SCConv(pooling=2))
    blocks = [specs.Basic(width=16, operator=operator) for operator in operators]
    gated = specs.Gated(width=16, operator=specs.GnConv(order=2), layer_scale=1.0, stride=2)
    genotype = Genotype(stem=specs.Stem(kind="small", width=16), stages=(tuple(blocks), (gated,)))
    return build_model(genotype, num_classes=10, in_channels=1, drop_path=drop_path)


def run(cache, model, settings, *, source_seed=0, seed=1, epochs=None, **options) -> list[dict]:
    source = open_source(settings, seed=source_seed, device="cpu", cache_dir=cache)
    rows = []
    for row in train(model, source, settings, seed=seed, device="cpu", **options):
        rows.append(row)
        if len(rows) == epochs:
            break
    return rows


def weights(model: nn.Module) -> str:
    return weights_of(model.state_dict())


def weights_of(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def timeless(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
