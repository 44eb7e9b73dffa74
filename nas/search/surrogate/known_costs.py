"""KnownCosts: parameters and multiply-accumulates of any candidate of a space, exact and without building it; and its
latency roughly, by a table of its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from nas.networks.task import build_measured
from nas.runs.folder import LATENCY_TABLE, LATENCY_TABLES, has_trained, shared_cache
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.pyramid import CONV3, Dense
from nas.space.search_space import SearchSpace

SHAPES = {
    **dict.fromkeys(("digits", "cluttered_digits", "scattered_digits"), (1, 10)),
    "cifar10": (3, 10),
    "cifar100": (3, 100),
}
"""Channels and classes of the data sets that always have the same."""
PLAIN = specs.Conv(groups="depthwise")

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

    def __sub__(self, other: Costs) -> Costs:
        return self + Costs(-other.num_params, -other.num_macs, -other.milliseconds)


class KnownCosts:
    """The free costs of parameters, {"num_params": ..., "num_macs": ...}, as `nas.measure.cost` counts them.

    Both are sums over stem, blocks and head, and a space has few different blocks: each is counted once, on meta
    tensors, when a candidate first has it. With the `milliseconds` of all parts (`nas.measure.latency_table`), by their
    text, `estimated` has the sum of these, too.

    Neck and head of a detector are counted as what one has beyond its stages.
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
        self._necks: dict[tuple[tuple[Shape, ...], Dense], Costs] = {}
        self._maps: tuple[Shape, ...] = ()
        """Those of the first detector that was counted."""

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
        total, shape, kind, maps = Costs(), self._input, "", list[Shape]()
        for i, chosen in enumerate(by_stage):
            kind = active[f"stages.{i}.block"]
            key = (i, shape, *chosen)
            if key not in self._stages:
                genotype = genotype or self._space.decode(params)
                self._stages[key] = self._stage(i, genotype, shape)
            more, shape = self._stages[key]
            total += more
            maps.append(shape)
        if self._space.config.dense is not None:
            return total + self._dense(genotype or self._space.decode(params), tuple(maps))
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

    def _dense(self, genotype: Genotype, maps: tuple[Shape, ...]) -> Costs:
        """What a detector has beyond its stages, whose maps are given: that with plain neck and head, and what either
        adds, which does not hang on widths of stages."""
        dense, first = genotype.dense, self._maps
        assert dense is not None
        plain = replace(dense, neck=CONV3, head=CONV3)
        total = self._beyond(genotype, maps, plain)
        for changed in (replace(plain, neck=dense.neck), replace(plain, head=dense.head)):
            total += self._beyond(genotype, first or maps, changed) - self._beyond(genotype, first or maps, plain)
        self._maps = first or maps
        return total

    def _beyond(self, genotype: Genotype, maps: tuple[Shape, ...], dense: Dense) -> Costs:
        """That of a detector with the smallest blocks of such maps."""
        if (key := (maps, dense)) not in self._necks:
            stages = tuple(
                (specs.Basic(width=shape[0], stride=stage[0].stride, operator=PLAIN),)
                for stage, shape in zip(genotype.stages, maps, strict=True)
            )
            plain, shape, total = replace(genotype, stages=stages, dense=dense), self._input, Costs()
            with torch.device("meta"):
                detector = build_measured(plain, self._num_classes, self._input[0], self._input[1])
            for i in range(len(stages)):
                more, shape = self._stage(i, plain, shape)
                total += more
            self._necks[key] = Costs(num_params(detector), num_macs(detector, self._input)) - total
        return self._necks[key]

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
    if config.space.dense is not None:
        asked = None  # a table has the parts of classifiers
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
