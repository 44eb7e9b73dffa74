"""How many trials fit on the cluster, updated while nodes come and go."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

import ray
from ray import tune

from nas.base.errors import MachineError
from nas.base.signals import insist
from nas.config.sections import ExperimentConfig, ResourcesConfig
from nas.search.cluster.share import Share
from nas.search.progress import Progress

LOOK_SECONDS = 1.0


class Placed(Protocol):
    """Who never has more trials under way than there are places."""

    places: int
    progress: Progress


class Places(tune.Callback):
    """Has a searcher know how many trials fit at once now.

    What Tune has started on a node that died waits for another place; new trials wait for those. One place is always
    told, so that a search whose last node went away waits for the next one.
    """

    def __init__(self, resources: ResourcesConfig, searcher: Placed, share: Share):
        self.resources, self.searcher, self.share = resources, searcher, share
        self.next_look = 0.0

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        insist()
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SECONDS
        places, before = num_ours(self.resources, self.share), self.searcher.places
        if places != before:
            self.searcher.places = places
            self.searcher.progress.say(f"{places} at once from now on, {before} before: the cluster has changed")


def num_places(config: ExperimentConfig, share: Share) -> int:
    """How many trials this search may have at once; raises MachineError when not even one fits."""
    resources = config.resources
    if num_fitting(resources):
        return num_ours(resources, share)
    for kind, asked, key in [("CPU", resources.cpus_per_trial, "cpus"), ("GPU", resources.gpus_per_trial, "gpus")]:
        most = max((node["Resources"].get(kind, 0) for node in _nodes()), default=0)
        if most < asked:
            there = f"{most:g} {kind}s are there" if len(_nodes()) == 1 else f"no node has more than {most:g} {kind}s"
            raise MachineError(f"resources.{key}_per_trial: {asked:g} asked, {there}")
    kinds = {
        kind.partition(":")[2] for node in _nodes() for kind in node["Resources"] if kind.startswith("accelerator_")
    }
    if resources.accelerator and resources.accelerator not in kinds:
        there = ", ".join(sorted(kinds)) or "none"
        raise MachineError(f"resources.accelerator: no node has {resources.accelerator}; there are {there}")
    for kind, amount in resources.custom.items():
        if (most := max((node["Resources"].get(kind, 0) for node in _nodes()), default=0)) < amount:
            raise MachineError(f"resources.custom.{kind}: {amount:g} asked, no node has more than {most:g}")
    for label in resources.labels.items():
        if not any(label in node.get("Labels", {}).items() for node in _nodes()):
            raise MachineError(f"resources.labels.{label[0]}: no node has the value {label[1]!r}")
    raise MachineError("resources: no node has all that a trial asks for")


def num_ours(resources: ResourcesConfig, share: Share) -> int:
    """How many trials this search may have at once, beside other searches; 1 at least."""
    return min(share.of(num_fitting(resources)), resources.max_concurrent or sys.maxsize)


def num_fitting(resources: ResourcesConfig) -> int:
    """How many trials fit on the nodes that are there now; each runs on one of them."""
    return sum(_fitting(resources, node) for node in _nodes())


def fitting_nodes(resources: ResourcesConfig) -> list[dict[str, Any]]:
    """The living nodes, as `ray.nodes` has them, that a trial fits on."""
    return [node for node in _nodes() if _fitting(resources, node)]


def asked(resources: ResourcesConfig) -> dict[str, float]:
    """What a trial asks of Ray."""
    kind = {f"accelerator_type:{resources.accelerator}": 0.001} if resources.accelerator else {}
    return {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial, **kind, **resources.custom}


def _fitting(resources: ResourcesConfig, node: Mapping[str, Any]) -> int:
    if not resources.labels.items() <= node.get("Labels", {}).items():
        return 0
    there = node["Resources"]
    return min(int(there.get(kind, 0) / amount + 1e-9) for kind, amount in asked(resources).items() if amount)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]
