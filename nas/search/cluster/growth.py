"""Growth: what a search asks of a cluster that starts nodes where work waits for them, by Ray's autoscaler."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from nas.base.signals import insist
from nas.config.sections import ResourcesConfig
from nas.search.cluster.nodes import fitting_nodes, selector, trial_bundle

LOOK_SECONDS = 1.0
PATIENCE_SECONDS, REST_SECONDS = 30.0, 600.0


class Growth:
    """Placement groups, each of what a trial takes, that wait for a node: Ray's sign to start one.

    A search has no more trials under way than there are places, so that nothing else would wait. A cluster that starts
    no node for half a minute is left in peace for ten minutes.
    """

    def __init__(self, resources: ResourcesConfig):
        self.resources = resources
        self._groups: list[PlacementGroup] = []
        self._answered, self._rests_until, self._num_nodes = time.monotonic(), 0.0, 0

    def ask(self, count: int, num_nodes: int) -> bool:
        """Have so many groups wait, beside so many nodes; False while the cluster rests, or has been asked in vain."""
        now = time.monotonic()
        if now < self._rests_until:
            return False
        if not self._groups or num_nodes > self._num_nodes or _starts_nodes():
            self._answered = now
        self._num_nodes = num_nodes
        table = placement_group_table() if self._groups else {}
        found_room = [group for group in self._groups if table.get(group.id.hex(), {}).get("state") == "CREATED"]
        patient = now - self._answered < PATIENCE_SECONDS
        left = [group for group in self._groups if group not in found_room]
        wanted = count if patient else 0
        for group in (*found_room, *left[wanted:]):  # what has found room has done so for a trial
            remove_placement_group(group)
        self._groups = left[:wanted]
        while len(self._groups) < wanted:
            self._groups.append(placement_group([trial_bundle(self.resources)], **selector(self.resources)))
        if not patient:
            self._rests_until = now + REST_SECONDS
        return patient


def wait_for_node(resources: ResourcesConfig, say: Callable[[str], None]) -> None:
    """Wait for a node that a trial fits on, where a cluster has none and starts one."""
    growth, asked = Growth(resources), False
    while not fitting_nodes(resources) and growth.ask(1, 0):
        insist()
        if not asked:
            say("no node of the cluster has what a trial asks for; the cluster is asked for one")
            asked = True
        time.sleep(LOOK_SECONDS)
    growth.ask(0, 0)


def _starts_nodes() -> bool:
    """Whether the cluster's autoscaler, of either version, is starting nodes."""
    try:
        status = _internal_kv_get(b"__autoscaling_status")
        newer = get_cluster_status(ray.get_runtime_context().gcs_address)
    except (RayError, RuntimeError):  # the head is away, and may come back
        return False
    report = json.loads(status)["autoscaler_report"] if status else {}
    return any(
        (report.get("pending_nodes"), report.get("pending_launches"), newer.pending_nodes, newer.pending_launches)
    )
