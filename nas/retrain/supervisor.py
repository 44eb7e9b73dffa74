"""Supervisor of a training: one process per device on this host; when one of them dies, all are restarted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

USAGE, DIVERGED, FAILED, INTERRUPTED = 2, 3, 4, 130
"""Exit codes after which the supervisor does not restart: wrong input, divergence, a full disk, a signal to stop."""
FINAL = (0, USAGE, DIVERGED, FAILED, INTERRUPTED)
SUPERVISOR = "OPNAS_SUPERVISOR"
"""Environment variable with the number of the process that watches."""
GRACE_SECONDS = 30.0
LOOK_SECONDS = 0.05


def supervise(
    command: Sequence[str],
    num_processes: int,
    *,
    progress: Callable[[], object],
    max_restarts: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> int:
    """Run `command` in `num_processes` processes, each with its RANK, until all are done; returns the exit code.

    When one dies, all are killed and started anew on a fresh port: what torch.distributed lost cannot be mended in
    place. At most `max_restarts` times between two values of `progress()`, such as the newest checkpoint. A SIGTERM or
    SIGINT is passed on, and the processes have half a minute to save and end. Nothing is left running in any case.
    """
    restarts, reached = 0, progress()
    with _received_signals() as received:
        while True:
            code = _run_group(command, num_processes, received)
            if code in FINAL:
                return code
            if received:  # it ended before it could listen
                return INTERRUPTED
            if progress() != reached:
                restarts, reached = 0, progress()
            if restarts == max_restarts:
                say(f"a training process ended with {_how_it_ended(code)}, {restarts + 1} times without progress")
                return 1
            restarts += 1
            say(
                f"a training process ended with {_how_it_ended(code)}; starting all anew ({restarts} of {max_restarts})"
            )


def free_port() -> int:
    """A port of this host that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_group(command: Sequence[str], num_processes: int, received: list[int]) -> int:
    """One life of all processes: 0 when all succeeded, else the code of the first that did not."""
    port = str(free_port())
    shared = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared[SUPERVISOR] = str(os.getpid())
    processes = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True
        )
        for rank in range(num_processes)
    ]
    deadline = None
    try:
        while True:
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code is not None and code != 0]
            # whoever was told to stop waits for the others to save as well
            if failed and (failed[0] != INTERRUPTED or None not in codes):
                return failed[0]
            if None not in codes:
                return 0
            if received and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            if deadline is not None and time.monotonic() > deadline:
                return FAILED
            time.sleep(LOOK_SECONDS)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the workers that load its images
            process.wait()


@contextmanager
def _received_signals() -> Iterator[list[int]]:
    """A list that gets the signal which asks this process to stop, instead of its usual effect; a second one has it."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield received
        return

    def heed(number: int, _: FrameType | None) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)
        os.write(2, b"stopping after this step; once more stops at once\n")

    before = {number: signal.signal(number, heed) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """A function that says whether this process was asked to stop, by SIGTERM or SIGINT, since the context began."""
    with _received_signals() as received:
        yield lambda: bool(received)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name if -code in list(signal.Signals) else -code}"
