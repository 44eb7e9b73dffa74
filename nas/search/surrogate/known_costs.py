"""KnownCosts: parameters and multiply-accumulates of any candidate of a space, exact and without building it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.base.extensions import is_own
from nas.config.sections import ProxyConfig
from nas.data.datasets import load_dataset
from nas.data.images.parts import list_parts
from nas.measure.cost import num_macs, num_params
from nas.networks.blocks import Head, build_block, build_conv_head, build_stem
from nas.space import specs
from nas.space.search_space import SearchSpace

SHAPES = {"digits": (1, 10), "cluttered_digits": (1, 10), "cifar10": (3, 10), "cifar100": (3, 100)}
"""Channels and classes of the data sets that always have the same."""


class KnownCosts:
    """The free costs of parameters, {"num_params": ..., "num_macs": ...}, as `nas.measure.cost` counts them.

    Both are sums over stem, blocks and head, and a space has few different blocks: each is counted once, on meta
    tensors, when a candidate first has it.
    """

    def __init__(self, space: SearchSpace, side: int, in_channels: int, num_classes: int):
        self._space, self._num_classes = space, num_classes
        self._input = (in_channels, side, side)
        self._stages: dict[tuple, tuple[int, int, tuple[int, int, int]]] = {}
        self._parts: dict[Any, tuple[int, int, tuple[int, int, int]]] = {}

    def __call__(self, params: dict[str, Any]) -> dict[str, int]:
        active, genotype = self._space.active(params), None
        by_stage: list[list] = [[] for _ in self._space.config.stages]
        for name, value in active.items():
            section, index, *_ = name.split(".")
            if section == "stages":  # what is chosen of a training costs nothing that is counted
                by_stage[int(index)].append((name, value))
        totals, shape, kind = [0, 0], self._input, ""
        for i, chosen in enumerate(by_stage):
            kind = active[f"stages.{i}.block"]
            key = (i, shape, *chosen)
            if key not in self._stages:
                genotype = genotype or self._space.decode(params)
                self._stages[key] = self._stage(i, genotype, shape)
            more_params, more_macs, shape = self._stages[key]
            totals = [totals[0] + more_params, totals[1] + more_macs]
        key = ("head", kind, shape)
        if key not in self._stages:
            self._stages[key] = self._head((genotype or self._space.decode(params)).head, shape)
        more_params, more_macs, _ = self._stages[key]
        return {"num_params": totals[0] + more_params, "num_macs": totals[1] + more_macs}

    def _stage(self, i: int, genotype: Any, shape: tuple[int, int, int]) -> tuple[int, int, tuple[int, int, int]]:
        """Counts of a stage, the stem included with the first, and the shape that leaves it."""
        counts = [0, 0]
        parts: list[Any] = [genotype.stem] if i == 0 else []
        for spec in [*parts, *genotype.stages[i]]:
            key = (spec, shape)
            if key not in self._parts:
                self._parts[key] = self._count(spec, shape)
            more_params, more_macs, shape = self._parts[key]
            counts = [counts[0] + more_params, counts[1] + more_macs]
        return counts[0], counts[1], shape

    def _count(self, spec: Any, shape: tuple[int, int, int]) -> tuple[int, int, tuple[int, int, int]]:
        with torch.device("meta"):
            part = build_stem(spec, shape[0]) if isinstance(spec, specs.Stem) else build_block(shape[0], spec)
        return _counts(part, shape)

    def _head(self, spec: specs.Head, shape: tuple[int, int, int]) -> tuple[int, int, tuple[int, int, int]]:
        with torch.device("meta"):
            width = spec.width or shape[0]
            head = nn.Sequential(build_conv_head(shape[0], spec), Head(width, spec, self._num_classes, None, "avg"))
        return num_params(head), num_macs(head, shape), shape


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


def known_costs(space: SearchSpace, proxy: ProxyConfig, cache_dir: Path = Path()) -> KnownCosts:
    """The known costs of an experiment. Raises DataError where the classes of an image folder cannot be counted."""
    channels, classes = channels_and_classes(proxy, cache_dir)
    return KnownCosts(space, proxy.resolution, channels, classes)


def _counts(part: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int, tuple[int, int, int]]:
    """Parameters, multiply-accumulates and output shape of a part for one image of a shape."""
    with torch.no_grad():
        found = part.eval()(torch.empty(1, *shape, device="meta")).shape
    return num_params(part), num_macs(part, shape), (found[1], found[2], found[3])
