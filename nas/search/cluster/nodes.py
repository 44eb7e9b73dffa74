"""The nodes of a cluster, as `ray.nodes` has them, and what a trial takes of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from nas.config.sections import ResourcesConfig


def living_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def fitting_nodes(resources: ResourcesConfig) -> list[dict[str, Any]]:
    """The living nodes that a trial fits on."""
    return [node for node in living_nodes() if _fitting(resources, node)]


def num_fitting(resources: ResourcesConfig, nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many trials fit on these nodes, if nothing else runs there; each runs on one of them."""
    return sum(_fitting(resources, node) for node in nodes)


def trial_bundle(resources: ResourcesConfig) -> dict[str, float]:
    """What a trial takes of its node, in Ray's words."""
    kind = {f"accelerator_type:{resources.accelerator}": 0.001} if resources.accelerator else {}
    return {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial, **kind, **resources.custom}


def selector(resources: ResourcesConfig, avoided: Sequence[str] = ()) -> dict[str, Any]:
    """Which nodes a trial may run on, as an argument of a placement group of one bundle: by labels, none of those
    `avoided`, which are node IDs."""
    # without a space behind the comma, which Ray would take for part of an ID
    labels = resources.labels | ({"ray.io/node-id": f"!in({','.join(avoided)})"} if avoided else {})
    return {"bundle_label_selector": [labels]} if labels else {}


def _fitting(resources: ResourcesConfig, node: Mapping[str, Any]) -> int:
    if not resources.labels.items() <= node.get("Labels", {}).items():
        return 0
    there = node["Resources"]
    return min(int(there.get(kind, 0) / amount + 1e-9) for kind, amount in trial_bundle(resources).items() if amount)
