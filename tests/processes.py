"""Processes for tests that kill or race them: forked from a server that has torch imported, so that they start fast."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess


def start(target: Callable, *arguments, daemon: bool = True) -> BaseProcess:
    """Run `target(*arguments)`, of a test module, in a process of its own; a daemon cannot start others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "torch._dynamo", "nas.trial", "nas.sources"])
    process = context.Process(target=target, args=arguments, daemon=daemon)
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 60) -> None:
    """Wait for an end without error."""
    process.join(seconds)
    assert process.exitcode == 0, f"exit code {process.exitcode}"


def kill(process: BaseProcess) -> None:
    """SIGKILL, and wait until the process is gone; it must have been alive."""
    assert process.is_alive()
    process.kill()
    process.join(10)
