"""Kills a child process when its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def die_with(parent: int, number: int = 0) -> None:
    """Have the system kill this process when its `parent` dies, however that happens (Linux).

    `number` is what a loader tells its workers. What they hold, such as a lock, is free again with the parent's death.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), signal.SIGKILL)
