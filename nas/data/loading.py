"""Reading by worker processes: what they share memory for, and what is said when one dies or hangs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nas.base.errors import HostError
from nas.base.process import die_with

PREFETCHED = 2
"""Batches that a worker reads ahead."""
SHARED_MEMORY = Path("/dev/shm")


class LoadingFailed(HostError):
    """A worker process that reads images died, or none of them delivered for too long."""


def loader(
    dataset: Dataset, batches: Iterable[Any], device: torch.device, num_workers: int, timeout: float
) -> DataLoader:
    """Batches as `dataset.__getitems__` returns them, from `num_workers` processes that stay; 0 reads in this one.

    After `timeout` seconds without a batch an error is raised that `loading_explained` names.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        generator=torch.Generator(),  # the loader draws a seed per pass; this keeps it from the one that dropout uses
        num_workers=num_workers,
        collate_fn=_as_is,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers > 0,
        timeout=timeout if num_workers else 0,
        prefetch_factor=PREFETCHED if num_workers else None,
        worker_init_fn=partial(_begin, os.getpid()),
        # forked from this process, whatever started it: they inherit its imports, and end with it
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )


@contextmanager
def loading_explained() -> Iterator[None]:
    """Turns what a loader raises for a dead or hanging worker into LoadingFailed; no worker that began inside outlives
    an error."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException as error:
        _kill(set(multiprocessing.active_children()) - before)  # one that hangs would be waited for
        text = str(error)
        if isinstance(error, RuntimeError) and text.startswith("DataLoader timed out"):
            raise LoadingFailed(
                f"no images for {text.split()[4]} seconds (retrain.loader_timeout): the folder of the images does not "
                f"answer, or {SHARED_MEMORY} is full"
            ) from None
        died = isinstance(error, RuntimeError) and text.startswith("DataLoader worker")
        if died or isinstance(error, ConnectionError | EOFError):  # the latter while it handed over a batch
            raise LoadingFailed(
                "a process that reads images died; it was killed from outside, for example as memory ran out"
            ) from None
        raise


def workers_that_fit(num_workers: int, batch_bytes: int, num_processes: int) -> tuple[int, list[str]]:
    """How many workers have room in shared memory for batches of so many bytes, and what is to be said of it.

    `num_processes` share it, each with its own workers.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return num_workers, []
    free = shutil.disk_usage(SHARED_MEMORY).free
    fitting = max(0, int((free / num_processes / batch_bytes - 1) // PREFETCHED))  # one more batch is being used
    if fitting >= num_workers:
        return num_workers, []
    need = num_processes * (PREFETCHED * num_workers + 1) * batch_bytes
    return fitting, [
        f"{SHARED_MEMORY} has {free / 1e6:,.0f} MB free, {num_workers} processes that read images need "
        f"{need / 1e6:,.0f} MB: {fitting} read (Docker: --shm-size)"
    ]


def _kill(workers: Iterable[Any]) -> None:
    """Without the error that PyTorch raises for a worker that is killed."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main else None
    for worker in workers:
        worker.kill()
        worker.join()
    if in_main:
        signal.signal(signal.SIGCHLD, before)


def _begin(parent: int, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    die_with(parent, number)


def _as_is(batch: Any) -> Any:
    return batch
