"""Latency of a network on a device: after warm-up, median of many runs; of the whole and of its parts."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas.base.machine import processor
from nas.measure.runtimes import Call, call_of
from nas.networks.precision import autocast, named_dtype, to_device, to_memory_format

MIN_RUNS, MIN_SECONDS, MAX_SECONDS = 20, 0.25, 2.0
TRIES, SCATTER, SHARE = 3, 1.5, 0.8
WARM_RUNS, WARM_SPREAD, WARM_SECONDS = 3, 1.1, 0.5
Exclusive = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of one batch: median, 20th and 80th percentile; and how they were measured."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    num_runs: int
    device: str
    batch_size: int
    dtype: str
    num_threads: int
    device_name: str = ""
    disturbed: bool = False
    """Whether others used the device: runs scattered, or a CPU was given to other processes, also when repeated."""
    runtime: str = "torch"


def measure_latency(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    device: torch.device | str,
    batch_size: int = 1,
    dtype: str = "float32",
    *,
    num_threads: int = 1,
    runtime: str = "torch",
    exclusive: Exclusive = nullcontext,
) -> Latency:
    """Time the inference of a copy of `model` on random images [batch_size, *input_shape].

    The first run, which may compile kernels, is outside `exclusive()`. Inside, runs go on until three in a row agree
    within 10 % (for half a second at most); then at least 20 runs and 0.25 s are timed, 2 s at most: by events of the
    device on a GPU, by the clock on a CPU, which computes with `num_threads`. The 16-bit dtypes are computed by
    autocast. `runtime` is one of `nas.measure.runtimes`; ValueError or MachineError where it cannot be had here.

    Runs that scatter (80th percentile above 1.5 times the 20th), or during which a CPU worked on something else for
    more than a fifth of the time, are made again, twice at most; the least slowed ones are kept, and marked.
    """
    with _ready(model, input_shape, device, batch_size, dtype, num_threads, runtime) as (_, run):
        run()
        with exclusive():
            found = []
            while len(found) < TRIES and not (found and found[-1].steady):
                found.append(_series(run, torch.device(device)))
        used_threads = torch.get_num_threads()
    best = min(found, key=lambda series: (not series.steady, series.median))
    return Latency(
        best.median,
        best.p20,
        best.p80,
        best.num_runs,
        str(device),
        batch_size,
        dtype,
        used_threads,
        device_name(device),
        not best.steady,
        runtime,
    )


def device_name(device: torch.device | str) -> str:
    """What the device is called: the model of a GPU, or of this host's processor."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@dataclass(frozen=True)
class _Series:
    """Percentiles of timed runs in milliseconds, and whether nothing seems to have slowed some of them."""

    p20: float
    median: float
    p80: float
    num_runs: int
    steady: bool


def _series(run: Callable[[], float], device: torch.device) -> _Series:
    wall, worked = time.perf_counter(), time.process_time()
    times = _repeat(run)
    wall, worked = time.perf_counter() - wall, time.process_time() - worked
    p20, median, p80 = np.percentile(times, [20, 50, 80]).tolist()
    given = device.type != "cpu" or worked >= SHARE * wall
    return _Series(p20, median, p80, len(times), given and p80 <= SCATTER * p20)


def latency_of_parts(
    model: nn.Module,
    parts: Iterable[str],
    input_shape: tuple[int, int, int],
    device: torch.device | str,
    batch_size: int = 1,
    dtype: str = "float32",
    *,
    num_threads: int = 1,
    exclusive: Exclusive = nullcontext,
) -> dict[str, float]:
    """Median milliseconds of each of `parts`, names of submodules such as `stages.0.1`, within the whole forward pass.

    What lies between the parts is in none of them. A name that the model lacks is an AttributeError.
    """
    with _ready(model, input_shape, device, batch_size, dtype, num_threads) as (copied, run):
        run()
        watches = {name: _Stopwatch(torch.device(device)) for name in parts}
        for name, watch in watches.items():
            part = copied.get_submodule(name)
            part.register_forward_pre_hook(lambda *_, watch=watch: watch.start())
            part.register_forward_hook(lambda *_, watch=watch: watch.stop())
        with exclusive():
            times: dict[str, list[float]] = {name: [] for name in watches}

            def timed_run() -> float:
                total = run()
                for name, watch in watches.items():
                    times[name].append(watch.milliseconds())
                return total

            num_runs = len(_repeat(timed_run))
    return {name: float(np.median(values[-num_runs:])) for name, values in times.items()}


def _repeat(run: Callable[[], float]) -> list[float]:
    """Warm up, then the milliseconds of each timed run."""
    latest: list[float] = []
    end = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        latest = [*latest[1 - WARM_RUNS :], run()]
        if len(latest) == WARM_RUNS and max(latest) < WARM_SPREAD * min(latest):
            break
    times = []
    begin = time.perf_counter()
    while not times or (spent := time.perf_counter() - begin) < MAX_SECONDS:
        if len(times) >= MIN_RUNS and spent >= MIN_SECONDS:
            break
        times.append(run())
    return times


@contextmanager
def _ready(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    device: torch.device | str,
    batch_size: int,
    dtype: str,
    num_threads: int,
    runtime: str = "torch",
) -> Iterator[tuple[nn.Module, Callable[[], float]]]:
    """A copy of the model on the device and a function that runs it once and returns the milliseconds."""
    device, precision = torch.device(device), named_dtype(dtype)
    copied = to_device(copy.deepcopy(model), device).eval()
    images = to_memory_format(torch.randn(batch_size, *input_shape, device=device))
    watch = _Stopwatch(device)
    call: Call = bool  # until there is one

    def run() -> float:
        watch.start()
        call()
        watch.stop()
        return watch.milliseconds()

    threads_before, collecting_before = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(num_threads)
    gc.disable()  # a collection in the middle of a run would be taken for the network's time
    try:
        with torch.inference_mode(), autocast(device, precision):
            call = call_of(runtime, copied, images, num_threads)
            yield copied, run
    finally:
        torch.set_num_threads(threads_before)
        if collecting_before:
            gc.enable()


class _Stopwatch:
    """Time between two points of the work of a device."""

    def __init__(self, device: torch.device):
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._begin = self._end = 0.0

    def start(self) -> None:
        if self._events:
            self._events[0].record()
        self._begin = time.perf_counter()

    def stop(self) -> None:
        self._end = time.perf_counter()
        if self._events:
            self._events[1].record()

    def milliseconds(self) -> float:
        """Waits for a GPU to reach the second point."""
        if not self._events:
            return 1000 * (self._end - self._begin)
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1])
