"""Handles SIGTERM and SIGHUP as Ctrl-C is handled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal, or Ctrl-C, has interrupted the program; `number` is that of the signal."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, once; it leaves as Stopped.

    A signal that the process was started to ignore, as nohup has it ignore SIGHUP, stays ignored; in another thread,
    which gets no signals, all stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = _received
    received.clear()

    def stop(number: int, _: FrameType | None) -> None:
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in ENDING}
    heeded = [number for number in ENDING if before[number] is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(received[0] if received else signal.SIGINT) from None
    finally:
        received.clear()
        for number in heeded:
            signal.signal(number, before[number])


def insist() -> None:
    """Raise the KeyboardInterrupt of a signal again, for loops to call: code that catches everything may have swallowed
    it, as a finalizer does whose exceptions Python only prints."""
    if _received:
        raise KeyboardInterrupt
