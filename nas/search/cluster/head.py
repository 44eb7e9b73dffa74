"""Whether the parts of Ray that a driver needs can be reached: where they cannot, a search ends with a message of its
own."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import ray

from nas.base.ray_session import times_left

LOOK_SECONDS, GONE_SECONDS, DEAD_SECONDS = 3.0, 30.0, 5.0
"""Ray by itself ends a driver a minute after its head is gone, with traces of its inner state, and a quarter of a
minute after its node has died, without a word."""


@dataclass
class Part:
    """A part of Ray that listens at an address; `gone` says what it means that it has not for so many seconds."""

    address: tuple[str, int]
    patience: float
    gone: str
    seen: float = field(default_factory=time.monotonic)

    def look(self) -> bool:
        """Whether it is there, or may come back."""
        with suppress(OSError), socket.create_connection(self.address, timeout=LOOK_SECONDS):
            self.seen = time.monotonic()
        return time.monotonic() - self.seen <= self.patience


def watch_ray(say: Callable[[str], None], given_address: bool) -> None:
    """End this process, with exit code 1, where the node of Ray on this host has died, or the head of a cluster
    given by its address is gone for half a minute.

    Nothing that finished is lost, as after a kill.
    """
    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    died = "Ray has died on this host; nothing finished is lost, go on with --resume"
    gone = (
        f"the head of the cluster at {host}:{port} cannot be reached for {GONE_SECONDS:.0f} s; nothing finished is "
        "lost, go on with --resume when it is back, or on another cluster"
    )
    parts = [
        Part((node["NodeManagerAddress"], int(node["NodeManagerPort"])), DEAD_SECONDS, died),
        Part((host, int(port)), *((GONE_SECONDS, gone) if given_address else (DEAD_SECONDS, died))),
    ]
    threading.Thread(target=_watch, args=(parts, say, times_left()), name="watch-ray", daemon=True).start()


def _watch(parts: list[Part], say: Callable[[str], None], stay: int) -> None:
    """While this process is in the Ray that it is in now; the next search may have begun before a look is over."""

    def here() -> bool:
        return ray.is_initialized() and times_left() == stay

    while here():
        for part in parts:
            if not part.look() and here():
                with suppress(OSError):  # the terminal may have gone
                    say(f"nas: {part.gone}")
                os._exit(1)
        time.sleep(LOOK_SECONDS)
