"""Drain: whether the node that this process runs on is to go away soon, as a cluster says of spot instances."""

from __future__ import annotations

import threading
import time

import ray
from ray._private.state import state
from ray.exceptions import RayError

LOOK_SECONDS = 2.0
AGAIN_SECONDS = 5.0
"""How long what a trial has saved is recent enough, on a node that may be gone the next moment."""


class Drain:
    """Looks for a notice in a thread of its own; it ends with the process."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._save = threading.Event()
        threading.Thread(target=self._watch, name="drain", daemon=True).start()

    def noticed(self) -> bool:
        """Whether to save now: once, when the notice has come, and every five seconds from then on."""
        if not self._save.is_set():
            return False
        self._save.clear()
        return True

    def _watch(self) -> None:
        while True:
            try:
                draining = self._node in state.get_draining_nodes()
            except (RayError, RuntimeError, ConnectionError):  # the head is away, and may come back
                draining = False
            if draining:
                self._save.set()
            time.sleep(AGAIN_SECONDS if draining else LOOK_SECONDS)
