"""Locks between processes, released by the system when their holder dies, however that happens.

- `file_lock`: a file, by one holder or several shared ones; waits. Of images that runs share.
- `byte_lock`: one byte of a file that many holders use, each another byte; waits so long. Of a trial.
- `DeviceLock`: a device, shared by trainings, exclusive for a latency measurement; waits. Of a GPU or a CPU.
- `RunLock`: a file that says who holds it; refuses at once where it is held. Of a run, and of a retraining.

On NFS the system makes byte-range locks of them: an exclusive one needs a file that is open for writing, a shared one a
file that is open for reading (flock(2)).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from nas.base.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO)
LOOK_SECONDS = 0.5


class Locked(UserError):
    """Another process holds the run."""


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
def byte_lock(path: Path, offset: int, wait_seconds: float, what: str) -> Iterator[None]:
    """Hold one byte of a file (made where absent); raises TimeoutError, naming `what`, where another process has it for
    longer than `wait_seconds`, and UserError where the file system keeps no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        end = time.monotonic() + wait_seconds
        while True:
            try:
                with locks_of(path):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                break
            except (BlockingIOError, PermissionError):  # lockf may say either
                if time.monotonic() > end:
                    raise TimeoutError(f"{what} has been run by another process for {wait_seconds:g} s") from None
                time.sleep(0.1)
        yield


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


def devices_folder() -> Path:
    """Where the locks of this host's devices lie, for all users: in memory, or else where temporary files go."""
    memory = Path("/dev/shm")
    folder = (memory if memory.is_dir() else Path(tempfile.gettempdir())) / "opnas-devices"
    if not folder.is_dir():
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
    return folder


@dataclass(frozen=True)
class DeviceLock:
    """A lock of a device that many trainings share, and that a latency measurement holds exclusively.

    `path` names the device for all processes that use it, `<path>.turnstile` and `<path>.room` are its lock files, also
    for other users. Every holder takes the turnstile first, then the room, and lets go of the turnstile; a measurement
    keeps it while it waits for the room. New training steps so queue behind a measurement, which waits for one step of
    each training at most.
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


class RunLock:
    """Holds a file's exclusive lock for the length of a `with`; the file says who holds it.

    Raises Locked, naming the holder, where another process has it for longer than a look at it takes, and UserError
    where the file system keeps no locks. `what` is locked, in words; without it, the file's folder.
    """

    def __init__(self, path: Path, what: str | None = None):
        self.path, self.what = path, what or str(path.parent)

    def __enter__(self) -> RunLock:
        made = not self.path.exists()
        self.file = self._open()
        try:
            self._take()
        except UserError as refused:
            self.file.close()
            if made and not isinstance(refused, Locked):
                self.path.unlink()
                with suppress(OSError):
                    self.path.parent.rmdir()
            raise
        if not self._is_there():  # its last holder removed it, with its folder
            self.file.close()
            return self.__enter__()
        self.file.truncate(0)
        self.file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        self.file.flush()
        return self

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a+", encoding="utf-8")

    def _take(self) -> None:
        end = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                with locks_of(self.path):
                    fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Locked(f"{self.what} is in use by {holder(self.path)}") from None
            time.sleep(0.05)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.truncate(0)
        self.file.close()


def holder(path: Path) -> str:
    """Who holds the lock, in words; call it while the lock is held."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {time.strftime('%F %T', time.localtime(who['since']))}"
    except (OSError, ValueError, KeyError):
        return "another process"


def is_locked(path: Path) -> bool | None:
    """Whether some process holds the lock now; None where that cannot be seen. The look itself shares it for a moment.

    A reader of the run need not be able to write. Whoever looks asks for a shared lock, which on NFS too needs no more.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # no locks on that file system, or no right to read the file
        return None
    return False


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
