"""KnownCosts: parameters and multiply-accumulates of any candidate of a space, exact and without building it; and its
latency roughly, by a table of its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.base.extensions import is_own
from nas.base.files import write_atomically
from nas.config.sections import ExperimentConfig, ObjectiveConfig, ProxyConfig
from nas.data.datasets import load_dataset
from nas.data.images.parts import list_parts
from nas.measure.cases import Part
from nas.measure.cost import num_macs, num_params
from nas.measure.latency_table import kept_table
from nas.networks.blocks import Head, build_block, build_conv_head, build_stem
from nas.runs.folder import LATENCY_TABLE, LATENCY_TABLES, has_trained, shared_cache
from nas.space import specs
from nas.space.search_space import SearchSpace

SHAPES = {"digits": (1, 10), "cluttered_digits": (1, 10), "cifar10": (3, 10), "cifar100": (3, 100)}
"""Channels and classes of the data sets that always have the same."""


Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Costs:
    """Of parts of a network, for one image."""

    num_params: int = 0
    num_macs: int = 0
    milliseconds: float = 0.0

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.num_params + other.num_params,
            self.num_macs + other.num_macs,
            self.milliseconds + other.milliseconds,
        )


class KnownCosts:
    """The free costs of parameters, {"num_params": ..., "num_macs": ...}, as `nas.measure.cost` counts them.

    Both are sums over stem, blocks and head, and a space has few different blocks: each is counted once, on meta
    tensors, when a candidate first has it. With the `milliseconds` of all parts (`nas.measure.latency_table`), by their
    text, `estimated` has the sum of these, too.
    """

    def __init__(
        self,
        space: SearchSpace,
        side: int,
        in_channels: int,
        num_classes: int,
        milliseconds: Mapping[str, float] | None = None,
    ):
        self._space, self._num_classes, self._milliseconds = space, num_classes, milliseconds
        self._input = (in_channels, side, side)
        self._stages: dict[tuple, tuple[Costs, Shape]] = {}
        self._parts: dict[Any, tuple[Costs, Shape]] = {}

    def __call__(self, params: dict[str, Any]) -> dict[str, int]:
        costs = self._of(params)
        return {"num_params": costs.num_params, "num_macs": costs.num_macs}

    def estimated(self, params: dict[str, Any]) -> dict[str, float]:
        """{"latency_ms": ...} as the table's sum; empty without one."""
        return {} if self._milliseconds is None else {"latency_ms": self._of(params).milliseconds}

    def _of(self, params: dict[str, Any]) -> Costs:
        active, genotype = self._space.active(params), None
        by_stage: list[list] = [[] for _ in self._space.config.stages]
        for name, value in active.items():
            section, index, *_ = name.split(".")
            if section == "stages":  # what is chosen of a training costs nothing that is counted
                by_stage[int(index)].append((name, value))
        total, shape, kind = Costs(), self._input, ""
        for i, chosen in enumerate(by_stage):
            kind = active[f"stages.{i}.block"]
            key = (i, shape, *chosen)
            if key not in self._stages:
                genotype = genotype or self._space.decode(params)
                self._stages[key] = self._stage(i, genotype, shape)
            more, shape = self._stages[key]
            total += more
        key = ("head", kind, shape)
        if key not in self._stages:
            self._stages[key] = self._head((genotype or self._space.decode(params)).head, shape)
        return total + self._stages[key][0]

    def _stage(self, i: int, genotype: Any, shape: Shape) -> tuple[Costs, Shape]:
        """Costs of a stage, the stem included with the first, and the shape that leaves it."""
        total = Costs()
        parts: list[Any] = [genotype.stem] if i == 0 else []
        for spec in [*parts, *genotype.stages[i]]:
            key = (spec, shape)
            if key not in self._parts:
                self._parts[key] = self._count(spec, shape)
            more, shape = self._parts[key]
            total += more
        return total, shape

    def _count(self, spec: Any, shape: Shape) -> tuple[Costs, Shape]:
        with torch.device("meta"):
            part = build_stem(spec, shape[0]) if isinstance(spec, specs.Stem) else build_block(shape[0], spec)
        with torch.no_grad():
            found = part.eval()(torch.empty(1, *shape, device="meta")).shape
        return self._costs(part, spec, shape), (found[1], found[2], found[3])

    def _head(self, spec: specs.Head, shape: Shape) -> tuple[Costs, Shape]:
        with torch.device("meta"):
            width = spec.width or shape[0]
            head = nn.Sequential(build_conv_head(shape[0], spec), Head(width, spec, self._num_classes, None, "avg"))
        return self._costs(head, spec, shape), shape

    def _costs(self, module: nn.Module, spec: Any, shape: Shape) -> Costs:
        took = self._milliseconds[str(Part(spec, shape[0], shape[1]))] if self._milliseconds else 0.0
        return Costs(num_params(module), num_macs(module, shape), took)


def channels_and_classes(proxy: ProxyConfig, cache_dir: Path = Path()) -> tuple[int, int]:
    """Of the proxy's images. Raises DataError where the classes of an image folder cannot be counted.

    A data set of somebody else is loaded, with `cache_dir` for what it keeps.
    """
    if proxy.dataset in SHAPES:
        return SHAPES[proxy.dataset]
    if is_own(proxy.dataset):
        found = load_dataset(proxy, 0, cache_dir)
        return found.in_channels, found.num_classes
    return 3, len(list_parts(Path(proxy.data_dir or ".")).training.class_names)


def known_costs(
    space: SearchSpace,
    proxy: ProxyConfig,
    cache_dir: Path = Path(),
    milliseconds: Mapping[str, float] | None = None,
) -> KnownCosts:
    """The known costs of an experiment. Raises DataError where the classes of an image folder cannot be counted."""
    channels, classes = channels_and_classes(proxy, cache_dir)
    return KnownCosts(space, proxy.resolution, channels, classes, milliseconds)


def costs_of_run(config: ExperimentConfig, space: SearchSpace, run_dir: Path) -> KnownCosts:
    """The known costs of a run, and its estimate of latency if a table of the run's folder of runs has all parts of the
    space, measured as its objective asks. That is kept with the run: it goes on with the one that it began with."""
    asked = next((one for one in config.objectives if one.name == "latency_ms"), None)
    if asked is None and "latency_ms" in config.constraints:
        asked = ObjectiveConfig.model_validate({"name": "latency_ms"})
    path, cache_dir, milliseconds = run_dir / LATENCY_TABLE, shared_cache(run_dir), None
    if asked is not None and not path.exists() and not has_trained(run_dir):
        name = asked.device or ("cuda" if config.resources.gpus_per_trial else "cpu")
        device = torch.device(name) if name == "cpu" or torch.cuda.is_available() else None
        channels, _ = channels_and_classes(config.proxy, cache_dir)
        found = kept_table(space, channels, config.proxy.resolution, asked, cache_dir / LATENCY_TABLES, device)
        if found is not None:
            write_atomically(path, json.dumps(found, indent=1) + "\n")
    if asked is not None and path.exists():
        milliseconds = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return known_costs(space, config.proxy, cache_dir, milliseconds)
