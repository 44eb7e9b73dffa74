"""Time and peak memory of involution, ODConv and the global filter against their published forms, side by side.

python scripts/bench_operators.py [--device cpu|cuda] [--repeats 7] [--threads 1] [--out FILE.json]
Each row: median, lowest and highest milliseconds of both forms, forward and forward + backward, the ratio of the
medians, and the peak memory above what was held before (CPU: resident set, Linux with glibc only). What takes less
than 20 ms is repeated within a measurement. The two forms alternate, so that other load on the machine meets both
alike; on a CPU the time is that of the process.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nas import kernels
from nas.base.machine import processor
from nas.kernels.global_filter.reference import forward as by_fft
from nas.kernels.involution import reference as unfold_form
from nas.kernels.odconv2d import reference as grouped_form

INVOLUTIONS = [
    (8, 64, 56, 7),
    (8, 64, 28, 7),
    (8, 256, 14, 7),
    (32, 64, 32, 3),
    (64, 16, 8, 3),
    (1, 16, 8, 3),
    (1, 16, 8, 7),
]
ODCONVS = [(16, 64, 28, 4), (16, 128, 14, 4), (16, 256, 7, 4), (16, 512, 7, 2)]
FILTERS = [(64, 32, 8), (64, 120, 14), (64, 240, 7)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [compare(*involution_case(*shape, args.device), args.repeats) for shape in INVOLUTIONS]
    rows += [compare(*odconv_case(*shape, args.device), args.repeats) for shape in ODCONVS]
    rows += [compare(*filter_case(*shape, args.device), args.repeats) for shape in FILTERS]
    result = {"environment": environment(args), "rows": rows}
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def environment(args: argparse.Namespace) -> dict:
    cuda = args.device == "cuda"
    device = torch.cuda.get_device_name() if cuda else processor()
    clock = "wall, synchronised" if cuda else "process CPU time"
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": device, "clock": clock, "threads": args.threads, "n": args.repeats, "seed": 0, **versions}


def involution_case(n: int, c: int, size: int, k: int, device: str):
    """Name, tensors, our form, published form."""
    x = torch.randn(n, c, size, size, device=device, requires_grad=True)
    weight = torch.randn(n, c // 16, k, k, size, size, device=device, requires_grad=True)
    geometry = ((1, 1), (k // 2, k // 2), (1, 1))
    name = f"involution {n}x{c}x{size}x{size} K={k}"
    return name, (x, weight), kernels.involution, lambda x, weight: unfold_form.forward(x, weight, *geometry)


def odconv_case(n: int, c: int, size: int, num_kernels: int, device: str):
    """Name, tensors, our form, published form."""
    factor = {"device": device, "requires_grad": True}
    tensors = (
        torch.randn(n, c, size, size, **factor),
        torch.randn(num_kernels, c, c, 3, 3, **factor),
        torch.rand(n, c, 1, 1, **factor),
        torch.rand(n, c, 1, 1, **factor),
        torch.rand(n, 1, 1, 1, 3, 3, **factor),
        torch.rand(n, num_kernels, 1, 1, 1, 1, **factor),
    )
    name = f"odconv {n}x{c}x{size}x{size} n={num_kernels}"

    def published(x, weight, channel, filter, spatial, kernel):
        return grouped_form.odconv2d(x, weight, channel, filter, spatial, kernel, (1, 1), (1, 1), (1, 1), 1)

    return name, tensors, lambda *t: kernels.odconv2d(*t, padding=1), published


def filter_case(n: int, c: int, size: int, device: str):
    """Name, tensors, our form, published form."""
    x = torch.randn(n, c, size, size, device=device, requires_grad=True)
    weight = torch.randn(c, size, size // 2 + 1, 2, device=device, requires_grad=True)
    return f"global filter {n}x{c}x{size}x{size}", (x, weight), kernels.global_filter, by_fft


def compare(name: str, tensors: tuple, ours: Callable, published: Callable, repeats: int) -> dict:
    """One row. Both forms must agree before they are timed."""
    error = ((ours(*tensors) - published(*tensors)).norm() / published(*tensors).norm()).item()
    if not error < 1e-5:
        raise SystemExit(f"{name}: the two forms differ by {error:.1e}")
    row: dict = {"case": name, "relative_difference": error}
    for mode, step in {"forward": forward, "forward_backward": forward_backward}.items():
        runs = {"ours": lambda step=step: step(ours, tensors), "published": lambda step=step: step(published, tensors)}
        times = {form: [] for form in runs}
        device = tensors[0].device.type
        peaks = {form: peak_mb(run, device) for form, run in runs.items()}
        counts = {form: max(1, round(20 / max(milliseconds(run, device, 1), 1e-3))) for form, run in runs.items()}
        for _ in range(repeats):
            for form, run in runs.items():
                times[form].append(milliseconds(run, device, counts[form]))
        medians = {form: statistics.median(t) for form, t in times.items()}
        row[mode] = {
            form: {"median_ms": medians[form], "min_ms": min(t), "max_ms": max(t), "peak_extra_mb": peaks[form]}
            for form, t in times.items()
        }
        row[mode]["times_faster"] = medians["published"] / medians["ours"]
    print(
        f"{name}: forward {row['forward']['times_faster']:.1f}x, "
        f"forward + backward {row['forward_backward']['times_faster']:.1f}x",
        file=sys.stderr,
    )
    return row


def forward(form: Callable, tensors: tuple) -> None:
    with torch.no_grad():
        form(*tensors)


def forward_backward(form: Callable, tensors: tuple) -> None:
    y = form(*tensors)
    torch.autograd.grad(y, tensors, torch.ones_like(y))


def milliseconds(run: Callable, device_type: str, count: int) -> float:
    """Of one of `count` runs."""
    synchronize = torch.cuda.synchronize if device_type == "cuda" else lambda: None
    clock = time.perf_counter if device_type == "cuda" else time.process_time
    synchronize()
    start = clock()
    for _ in range(count):
        run()
    synchronize()
    return (clock() - start) * 1e3 / count


def peak_mb(run: Callable, device_type: str) -> float:
    """Highest memory during `run` above the level before it; the first call outside it pays for one-time set-up."""
    run()
    gc.collect()
    if device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # the C library keeps freed memory resident: give it back, or a second run would seem to need none
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident_mb("VmRSS")
    run()
    return resident_mb("VmHWM") - before


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
