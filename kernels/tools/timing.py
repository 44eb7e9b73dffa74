"""Clocks for kernels: a graph of many calls over inputs larger than the cache on a GPU, process time on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .settings import float32_products

CACHE_BYTES = 4 * 60 * 2**20  # inputs rotate over four times the last cache of an H200
MIN_CALLS, REPLAYS, ROUNDS = 10, 20, 2


@dataclass(frozen=True)
class Times:
    """Milliseconds per call: median, 20th and 80th percentile, and how far the medians of the rounds are apart."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds_apart: float
    num_runs: int


def num_sets(bytes_per_set: int, device: torch.device) -> int:
    """How many sets of inputs a measurement rotates over."""
    return 1 if device.type == "cpu" else max(1, min(MIN_CALLS, -(-CACHE_BYTES // max(1, bytes_per_set))))


def time_calls(calls: Sequence[Callable[[], object]], device: torch.device) -> Times:
    """Times `calls`, the same work on different inputs: on a GPU by replays of one CUDA graph, else one by one."""
    rounds = [_graph(calls) if device.type == "cuda" else _clock(calls) for _ in range(ROUNDS)]
    times = sorted(t for found in rounds for t in found)
    medians = [statistics.median(found) for found in rounds]
    low, high = times[len(times) // 5], times[-1 - len(times) // 5]
    return Times(statistics.median(times), low, high, max(medians) / min(medians) - 1, len(times))


def peak_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Highest memory of the GPU during `call` above the level before it; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device reaches at all: copy in GB/s (read and written), matrix products and fused multiply-adds in
    TFLOP/s, an empty launch in microseconds. Smaller sizes on a CPU, where the figures only complete the file.
    """
    gpu = device.type == "cuda"
    values, side = (2**30, 8192) if gpu else (2**22, 256)
    pair = torch.ones(2, values, device=device)
    found = {"copy_gbps": 2 * 4 * values / time_calls([lambda: pair[0].copy_(pair[1])], device).median_ms / 1e6}
    for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32, "tf32": torch.float32}.items():
        a = torch.randn(side, side, device=device).to(dtype)
        with float32_products("tf32" if name == "tf32" else "ieee"):
            ms = time_calls([lambda a=a: a @ a], device).median_ms
        found[f"matmul_{name}_tflops"] = 2 * side**3 / ms / 1e9
    small = torch.empty(1, device=device)
    found["launch_us"] = time_calls([small.zero_] * 100, device).median_ms * 1e3
    if gpu:
        from .ceilings import FLOPS, multiply_adds

        out = torch.empty(2**22, device=device)
        found["fma_tflops"] = out.numel() * FLOPS / time_calls([lambda: multiply_adds(out)], device).median_ms / 1e9
    return found


def _clock(calls: Sequence[Callable[[], object]]) -> list[float]:
    calls[0]()
    times = []
    for call in list(calls) * max(1, 3 // len(calls)):
        start = time.process_time()
        call()
        times.append(max(1e-6, (time.process_time() - start) * 1e3))
    return times


def _graph(calls: Sequence[Callable[[], object]]) -> list[float]:
    repeated = [calls[i % len(calls)] for i in range(max(MIN_CALLS, len(calls)))]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles, and lets libraries choose, outside the graph
        for call in calls:
            call()
        calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in repeated:
            call()
    graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / len(repeated))
    return times
