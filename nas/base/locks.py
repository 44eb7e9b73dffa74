"""Locks between processes, released by the system when their holder dies: a plain one, and the gate of a device.

On NFS the system makes byte-range locks of them: an exclusive one needs a file that is open for writing, a shared one a
file that is open for reading (flock(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def _device_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """As `file_lock`, on a disk of this host, where reading a file of another user is enough to lock it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # in a folder of all users, what exists may not be opened as if it were to be made
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def gates_folder() -> Path:
    """Where the gates of this host's devices lie, for all users: in memory, or else where temporary files go."""
    memory = Path("/dev/shm")
    folder = (memory if memory.is_dir() else Path(tempfile.gettempdir())) / "opnas-devices"
    if not folder.is_dir():
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
    return folder


@dataclass(frozen=True)
class DeviceGate:
    """Lets many trainings share a device, and a latency measurement have it alone.

    `path` names the device for all processes that use it; `<path>.turnstile` and `<path>.room` are lock files,
    also of other users. A measurement holds the turnstile while it waits for the room to empty, and everybody
    enters the room through the turnstile: new training steps queue behind the measurement, which so waits for one step
    of each training at most.
    """

    path: Path

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around training steps. Work queued on a GPU must be done (synchronised) before leaving."""
        with _device_lock(self._lock("turnstile"), shared=True):
            room = _device_lock(self._lock("room"), shared=True)
            room.__enter__()
        try:
            yield
        finally:
            room.__exit__(None, None, None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Around a measurement."""
        with _device_lock(self._lock("turnstile")), _device_lock(self._lock("room")):
            yield

    def _lock(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}")
