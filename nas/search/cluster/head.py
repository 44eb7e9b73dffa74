"""Whether the head of a cluster can be reached: where it cannot, a search ends with a message of its own."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import ray

LOOK_SECONDS, GONE_SECONDS = 3.0, 30.0
"""Ray by itself ends a driver after a minute without its head, with traces of its inner state."""


def watch_head(say: Callable[[str], None]) -> None:
    """End this process, with exit code 1, where the head of the cluster that it joined is gone for half a minute.

    Nothing that finished is lost, as after a kill.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    threading.Thread(target=_watch, args=(host, int(port), say), name="head", daemon=True).start()


def _watch(host: str, port: int, say: Callable[[str], None]) -> None:
    seen = time.monotonic()
    while ray.is_initialized():
        with suppress(OSError), socket.create_connection((host, port), timeout=LOOK_SECONDS):
            seen = time.monotonic()
        if time.monotonic() - seen > GONE_SECONDS:
            with suppress(OSError):  # the terminal may have gone
                say(
                    f"nas: the head of the cluster at {host}:{port} cannot be reached for {GONE_SECONDS:.0f} s; "
                    "nothing finished is lost, go on with --resume when it is back, or on another cluster"
                )
            os._exit(1)
        time.sleep(LOOK_SECONDS)
