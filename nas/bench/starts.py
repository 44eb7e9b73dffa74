"""Whether an operator loses for its initialisation: each is trained in each slot, beside plain convolution.

A network has two stages of one kind of block. The operator fills the slots of the first, the last, or both stages; the
others hold the baseline: a dense 3x3 convolution, in inverted residuals a depthwise one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.config.sections import ProxyConfig
from nas.data.batches import MemorySource
from nas.data.datasets import load_dataset
from nas.networks.model import build_model
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.loop import NonFiniteLoss, train
from nas.training.process_state import reset_process

OPERATORS: dict[str, specs.Operator] = {
    "conv3": specs.Conv(),
    "conv5": specs.Conv(kernel_size=5),
    "conv7": specs.Conv(kernel_size=7),
    "conv3_dilated": specs.Conv(dilation=2),
    "conv3_grouped": specs.Conv(groups=4),
    "dw3": specs.Conv(groups="depthwise"),
    "dw7": specs.Conv(kernel_size=7, groups="depthwise"),
    "inv3": specs.Involution(kernel_size=3),
    "inv5": specs.Involution(kernel_size=5),
    "inv7": specs.Involution(),
    "inv3_narrow": specs.Involution(kernel_size=3, group_channels=4, reduction=2),
    "od1": specs.ODConv(num_kernels=1),
    "od2": specs.ODConv(num_kernels=2),
    "od4": specs.ODConv(),
    "od8": specs.ODConv(num_kernels=8),
    "od4_dw": specs.ODConv(groups="depthwise"),
    "sc2": specs.SCConv(pooling=2),
    "sc4": specs.SCConv(),
    "gn2": specs.GnConv(order=2),
    "gn3": specs.GnConv(order=3),
    "gn4": specs.GnConv(order=4),
    "gn5": specs.GnConv(order=5),
    "gn3_global": specs.GnConv(filter="global", grid=(8, 5)),
}
POINTWISE: dict[str, specs.Operator] = {
    "odpw1": specs.ODConv(kernel_size=1, num_kernels=1),
    "odpw4": specs.ODConv(kernel_size=1),
}
"""Operators of the 1x1 slots of bottlenecks, around the baseline."""
STAGES = ("first", "last", "both")
BLOCKS = tuple(specs.BLOCKS)
WIDTHS = (32, 64)


@dataclass(frozen=True, order=True)
class Slot:
    """An operator's label, the kind of block, and in which stages it stands."""

    label: str
    block: str
    stages: str


def slots(stages: tuple[str, ...] = STAGES) -> Iterator[Slot]:
    """Every operator in every block that it fits, the baseline of each block first."""
    for block in BLOCKS:
        fitting = [label for label, operator in OPERATORS.items() if specs.fits(block, operator)]
        pointwise = list(POINTWISE) if block == "bottleneck" else []
        for label in [baseline(block), *(label for label in fitting if label != baseline(block)), *pointwise]:
            yield from (Slot(label, block, which) for which in stages)


def baseline(block: str) -> str:
    return "dw3" if block == "inverted_residual" else "conv3"


def network(slot: Slot, depth: int = 1, stride: int = 1) -> Genotype:
    """The network of a slot: `depth` blocks in each stage; `stride` is that of the first stage, 2 that of the last."""
    stages = []
    for i, stage in enumerate(("first", "last")):
        options: dict[str, Any] = {"operator": OPERATORS[baseline(slot.block)], "width": WIDTHS[i]}
        if slot.stages in (stage, "both"):
            options |= (
                {"pointwise": POINTWISE[slot.label]} if slot.label in POINTWISE else {"operator": OPERATORS[slot.label]}
            )
        if slot.block == "gated":
            options["layer_scale"] = 1.0
        kind = specs.BLOCKS[slot.block]
        stages.append(tuple(kind(stride=(2 if i else stride) if j == 0 else 1, **options) for j in range(depth)))
    head = specs.Head(kind="norm" if slot.block == "gated" else "linear")
    return Genotype(stem=specs.Stem(kind="small", width=16), stages=tuple(stages), head=head)


def train_slot(slot: Slot, config: ProxyConfig, seed: int, cache_dir: Path, depth: int = 1) -> list[float] | str:
    """The accuracies (0..1) after each epoch, or what stopped the training; of a list in `config`, its first value."""
    config = config.chosen({})
    dataset = load_dataset(config, 0, cache_dir)
    reset_process(seed, num_threads=1)
    stride = 1 if config.resolution <= 8 else 2
    model = build_model(network(slot, depth, stride), dataset.num_classes, dataset.in_channels)
    source = MemorySource(dataset, config, seed=0, device=torch.device("cpu"))
    try:
        return [round(row["top1"], 4) for row in train(model, source, config, seed=seed, device="cpu")]
    except NonFiniteLoss as error:
        return str(error)


@dataclass(frozen=True)
class Comparison:
    """A slot's trainings beside those of the baseline in the same block: accuracies in percent."""

    slot: Slot
    mean: float
    worst: float
    baseline: float
    num_failed: int

    @property
    def behind(self) -> float:
        """Points by which the mean is below the baseline's."""
        return self.baseline - self.mean


def compare(results: dict[Slot, list[float | None]]) -> list[Comparison]:
    """`results`: for each slot the last accuracy (0..1) of each seed, None where the training failed."""

    def percent(values: list[float | None]) -> list[float]:
        return [100 * value for value in values if value is not None]

    found = []
    for slot, values in results.items():
        beside = percent(results[Slot(baseline(slot.block), slot.block, slot.stages)])
        numbers = percent(values) or [0.0]
        mean, expected = sum(numbers) / len(numbers), sum(beside) / len(beside)
        found.append(Comparison(slot, mean, min(numbers), expected, values.count(None)))
    return found
