"""RunLock: one driver per run; the system frees the lock when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from nas.base.errors import UserError
from nas.base.locks import locks_of

LOOK_SECONDS = 0.5


class Locked(UserError):
    """Another driver holds the run."""


class RunLock:
    """Holds a file's exclusive lock for the length of a `with`; the file says who holds it.

    Raises Locked, naming the holder, where another process has it for longer than a look at it takes, and UserError
    where the file system keeps no locks. `what` is locked,
    in words; without it, the file's folder.
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
