"""Kernels compiled by several processes at once, before they are measured: one after the other they take a second each.

The processes need no GPU: Triton puts what it makes for that of this process into its cache on disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from threading import TIMEOUT_MAX
from typing import Any

import torch
import triton

from .._core.dispatch import ours
from .._core.forms import Case
from .._core.launch import Launch, interpreted
from .._core.prepared import collected
from .choosing import fitting_forms, once
from .stub_driver import StubDriver, set_active


@dataclass(frozen=True)
class Sent:
    """A launch as another process can take it: tensors as (shape, strides, dtype)."""

    kernel: tuple[str, str]
    tensors: tuple[tuple[str, tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    others: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int


def compile_cases(cases: Mapping[Case, str], seconds: float) -> int:
    """Compile within about so many seconds what our kernels need for these cases (with the form of the rule); returns
    how many launches that are.

    One that cannot be compiled, or waits too long, is compiled when its case is measured: what it raises is said there.
    """
    end = time.monotonic() + seconds
    launches: dict[Sent, None] = {}
    for case, rule in cases.items():
        for form in filter(ours, fitting_forms(case, rule)):
            if time.monotonic() < end:
                with collected() as found:
                    once(case, form)
                launches |= dict.fromkeys(sent(launch) for launch in found)
    return _compiled(list(launches), end - time.monotonic())


def sent(launch: Launch) -> Sent:
    kernel = launch.kernel.fn
    tensors = {name: t for name, t in launch.arguments.items() if isinstance(t, torch.Tensor)}
    return Sent(
        (kernel.__module__, kernel.__name__),
        tuple((name, tuple(t.shape), t.stride(), t.dtype) for name, t in tensors.items()),
        tuple((name, value) for name, value in launch.arguments.items() if name not in tensors),
        tuple(launch.constants.items()),
        launch.num_warps,
        launch.num_stages,
    )


def _compiled(launches: Sequence[Sent], seconds: float) -> int:
    """How many were, in as many processes as there are cores for."""
    if not launches or interpreted():
        return 0
    workers = min(len(launches), len(os.sched_getaffinity(0)))
    target = triton.runtime.driver.active.get_current_target()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (target,))
    try:
        limit = min(max(0.0, seconds), TIMEOUT_MAX)
        done, _ = wait([pool.submit(_compile, launch) for launch in launches], limit)
        return sum(not each.exception() for each in done)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(target: Any) -> None:
    torch.set_num_threads(1)
    set_active(StubDriver(target, notes=False))


def _compile(launch: Sent) -> None:
    received(launch).compile()


def received(launch: Sent) -> Launch:
    """The launch, with tensors that have no memory and one program."""
    module, name = launch.kernel
    tensors = {
        name: torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        for name, shape, stride, dtype in launch.tensors
    }
    arguments, constants = tensors | dict(launch.others), dict(launch.constants)
    return Launch(getattr(import_module(module), name), (1,), arguments, constants, launch.num_warps, launch.num_stages)
