"""Locks between processes, released by the system when their holder dies: a plain one, and the gate of a device."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file (made where absent), alone or with other shared holders; waits as long as needed.

    The lock belongs to this call: it also keeps out other threads of the same process. Children forked while it is held
    keep it until they end.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class DeviceGate:
    """Lets many trainings share a device, and a latency measurement have it alone.

    `path` names the device for all processes of a run, `<path>.turnstile` and `<path>.room` are its lock files. A
    measurement holds the turnstile while it waits for the room to empty, and everybody enters the room through the
    turnstile: new training steps queue behind the measurement, which so waits for one step of each training at most.
    """

    path: Path

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around training steps. Work queued on a GPU must be done (synchronised) before leaving."""
        with file_lock(self._lock("turnstile"), shared=True):
            room = file_lock(self._lock("room"), shared=True)
            room.__enter__()
        try:
            yield
        finally:
            room.__exit__(None, None, None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Around a measurement."""
        with file_lock(self._lock("turnstile")), file_lock(self._lock("room")):
            yield

    def _lock(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}")
