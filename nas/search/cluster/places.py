"""How many trials fit on the cluster, updated while nodes come and go."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from ray import tune

from nas.base.errors import MachineError
from nas.base.signals import insist
from nas.config.sections import ResourcesConfig
from nas.search.cluster.growth import Growth
from nas.search.cluster.hosts import Newcomers
from nas.search.cluster.nodes import fitting_nodes, living_nodes, num_fitting
from nas.search.cluster.share import Share
from nas.search.progress import Progress

LOOK_SECONDS, ASK_SECONDS = 1.0, 3.0


class Placed(Protocol):
    """Who never has more trials under way than there are places."""

    places: int
    avoided: list[str]
    progress: Progress

    def num_held_back(self) -> int:
        """Trainings that would begin now if there were places."""
        ...


class Places(tune.Callback):
    """Has a searcher know how many trials fit at once now, and asks a cluster that it joined for more.

    What Tune has started on a node that died waits for another place; new trials wait for those. One place is always
    told, so that a search whose last node went away waits for the next one.
    """

    def __init__(self, resources: ResourcesConfig, searcher: Placed, share: Share, newcomers: Newcomers | None = None):
        """`newcomers` has the nodes of a cluster that was joined."""
        self.resources, self.searcher, self.share, self.newcomers = resources, searcher, share, newcomers
        self.growth = None if newcomers is None else Growth(resources)
        self.next_look = self.next_ask = 0.0

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        insist()
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + LOOK_SECONDS
        nodes = fitting_nodes(self.resources)
        if self.newcomers is not None:
            nodes = self.newcomers.accepted(nodes)
            self.searcher.avoided = sorted(self.newcomers.refused)
        places, before = num_ours(self.resources, self.share, num_fitting(self.resources, nodes)), self.searcher.places
        if places != before:
            self.searcher.places = places
            self.searcher.progress.say(f"{places} at once from now on, {before} before: the cluster has changed")
        if self.growth is not None and time.monotonic() >= self.next_ask:
            self.next_ask = time.monotonic() + ASK_SECONDS
            most = (self.resources.max_concurrent or sys.maxsize) - places
            self.growth.ask(min(self.searcher.num_held_back(), places, most), len(nodes))


def num_places(resources: ResourcesConfig, share: Share) -> int:
    """How many trials this search may have at once; raises MachineError when not even one fits."""
    check_fits(resources)
    return num_ours(resources, share, num_fitting(resources, living_nodes()))


def check_fits(resources: ResourcesConfig) -> None:
    """Raise MachineError where a trial fits on no node, for what it lacks there."""
    nodes = living_nodes()
    if num_fitting(resources, nodes):
        return
    for kind, asked, key in [("CPU", resources.cpus_per_trial, "cpus"), ("GPU", resources.gpus_per_trial, "gpus")]:
        most = max((node["Resources"].get(kind, 0) for node in nodes), default=0)
        if most < asked:
            there = f"{most:g} {kind}s are there" if len(nodes) == 1 else f"no node has more than {most:g} {kind}s"
            raise MachineError(f"resources.{key}_per_trial: {asked:g} asked, {there}")
    kinds = {kind.partition(":")[2] for node in nodes for kind in node["Resources"] if kind.startswith("accelerator_")}
    if resources.accelerator and resources.accelerator not in kinds:
        there = ", ".join(sorted(kinds)) or "none"
        raise MachineError(f"resources.accelerator: no node has {resources.accelerator}; there are {there}")
    for kind, amount in resources.custom.items():
        if (most := max((node["Resources"].get(kind, 0) for node in nodes), default=0)) < amount:
            raise MachineError(f"resources.custom.{kind}: {amount:g} asked, no node has more than {most:g}")
    for label in resources.labels.items():
        if not any(label in node.get("Labels", {}).items() for node in nodes):
            raise MachineError(f"resources.labels.{label[0]}: no node has the value {label[1]!r}")
    raise MachineError("resources: no node has all that a trial asks for")


def num_ours(resources: ResourcesConfig, share: Share, fitting: int) -> int:
    """How many of so many trials that fit this search may have at once, beside other searches; 1 at least."""
    return min(share.of(fitting), resources.max_concurrent or sys.maxsize)
