"""Processes for tests that kill or race them: forked from a server that has torch imported, so that they start fast."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path


def start(target: Callable, *arguments, daemon: bool = True) -> BaseProcess:
    """Run `target(*arguments)`, of a test module, in a process of its own; a daemon cannot start others."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "timm.data", "nas.search.trial", "nas.retrain.worker"])
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


def command(folder: Path, *arguments: str, **environment: str) -> None:
    """For a process of its own that is no daemon: `nas` in a folder, which gets its output as `out` and `err`, with the
    process's rank behind the name if it has one."""
    os.chdir(folder)
    os.environ.update(environment)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(name + environment.get("RANK", ""), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
    sys.argv = ["nas", *arguments]
    from nas.cli import main

    main()
