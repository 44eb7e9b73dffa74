"""Locks between processes, released by the system when their holder dies: a plain one, and the gate of a device.

On NFS the system makes byte-range locks of them: an exclusive one needs a file that is open for writing, a shared one a
file that is open for reading (flock(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nas.base.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO)


@contextmanager
def file_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file (made where absent), alone or with other shared holders; waits as long as needed.

    The lock belongs to this call: it also keeps out other threads of the same process. Children forked while it is held
    keep it until they end. Raises UserError where the file system keeps no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with locks_of(path):
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locks_of(path: Path) -> Iterator[None]:
    """Around a call that locks `path`: UserError instead of what a file system that keeps no locks answers."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"{path}: the file system keeps no locks ({problem.strerror}), without which two processes could write the "
            "same files; mount it with locks (NFS with its lock service, Lustre with -o flock), or work in a folder "
            "on another disk"
        ) from None


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
