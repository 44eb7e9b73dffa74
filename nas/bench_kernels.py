"""`nas bench kernels` and `nas bench tune`: our kernels against other forms, and the table that the dispatcher reads.

Every case is checked against float64 before it is timed; a wrong one has no time. The file is written after each case,
so that a killed run still has what it measured. Shapes are those of `kernels.shipped`.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from kernels import dispatch
from kernels.depthwise_conv2d import aten as depthwise_aten
from kernels.gnconv_gate import aten as gate_aten
from kernels.involution import aten as involution_aten
from kernels.involution import reference as involution_unfold
from kernels.launch import machine_obstacle
from kernels.shipped import SHAPES, Shape
from nas.bench_timing import ceilings, measure, num_sets, peak_mb
from nas.errors import MachineError

LIMITS = {"float32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}  # tf32 where the flags allow it
PASSES = {
    "depthwise_conv2d": ("forward", "grad_input", "grad_weight"),
    "involution": ("forward", "grad_input", "grad_weight"),
    "gnconv_gate": ("forward",),
}
TINY = (
    Shape("depthwise_conv2d", 2, 8, 6, 3),
    Shape("involution", 2, 16, 6, 3),
    Shape("gnconv_gate", 2, 16, 6, width=8),
)
SUITES = {"core": SHAPES, "tiny": TINY}
TILES = {
    "depthwise_conv2d": {"BLOCK_COLS": (4, 8, 16), "BLOCK_WIDTH": (32, 64), "num_warps": (1, 2, 4)},
    "involution": {"BLOCK_COLS": (4, 8, 16), "BLOCK_GROUPS": (2, 4, 8), "num_warps": (1, 2, 4)},
    "gnconv_gate": {"BLOCK_PIXELS": (64, 128), "BLOCK_OUTER": (32, 64, 128), "num_warps": (4, 8)},
}


@dataclass(frozen=True)
class Work:
    """One pass of one shape: makers of inputs and forms by name, what must move and be computed, the exact result."""

    shape: Shape
    passing: str
    dtype: str
    make: Callable[[], tuple]
    forms: dict[str, Callable[..., torch.Tensor]]
    exact: Callable[..., torch.Tensor]
    bytes_min: int
    flops: int

    @property
    def plain(self) -> Callable[..., torch.Tensor]:
        """What runs where our kernel does not."""
        return self.forms["aten"] if "aten" in self.forms else self.forms["channels_last"]

    @property
    def key(self) -> dict[str, Any]:
        out = (self.shape.size - 1) // self.shape.stride + 1
        kernel, stride = self.shape.kernel, self.shape.stride
        return {
            "op": self.shape.op,
            "pass": self.passing,
            "dtype": self.dtype,
            "images": self.shape.images,
            "channels": self.shape.channels,
            "size": [out, out],
            "kernel": [kernel, kernel],
            "stride": [stride, stride],
        }


def bench(out: Path, suite: str = "core", device: str = "cuda", seconds: float = 480.0, compiled: bool = True) -> dict:
    """Ceilings, then every case of the suite by every form, then whole networks; writes `out` as it goes.

    What does not fit in `seconds` is listed under `skipped`. Raises MachineError where the device is absent.
    """
    start, place = time.monotonic(), _device(device)
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"environment": environment(place), "suite": suite, "rows": [], "models": [], "skipped": []}
    found["ceilings"] = ceilings(place)
    for work in works(SUITES[suite], ("bfloat16", "float32"), place):
        if time.monotonic() - start > seconds:
            found["skipped"].append(f"{work.shape.name} {work.passing} {work.dtype}")
            continue
        forms = dict(work.forms)
        if compiled and work.passing == "forward" and work.dtype == "bfloat16":
            forms["torch_compile"] = cast(Callable, torch.compile(work.plain))
        floor = floor_ms(work, found["ceilings"])
        rows = [row for name, form in forms.items() if (row := time_form(work, name, form, place, floor))]
        best = min((r["median_ms"] for r in rows if r["form"] != "triton" and "median_ms" in r), default=None)
        for row in rows:
            if best and "median_ms" in row:
                row["times_faster_than_best_pytorch"] = best / row["median_ms"]
        found["rows"] += rows
        _write(out, found)
    if suite == "core":
        for row in networks(place, lambda: seconds - (time.monotonic() - start)):
            found["models"].append(row)
            _write(out, found)
    found["seconds"] = time.monotonic() - start
    _write(out, found)
    return found


def tune(out: Path, suite: str = "core", device: str = "cuda", seconds: float = 480.0) -> dict:
    """Times our kernels in several configurations against aten, and writes the table that `auto` reads."""
    start, place = time.monotonic(), _device(device)
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"environment": environment(place), "entries": []}
    for work in works(SUITES[suite], ("bfloat16", "float16", "float32"), place):
        if time.monotonic() - start > seconds:
            break
        aten = time_form(work, "aten", work.plain, place, 0.0)
        if "triton" not in work.forms or "median_ms" not in aten:
            continue
        tried = []
        for config in [None, *configurations(work.shape.op)]:
            row = time_form(work, "triton", partial(work.forms["triton"], config=config), place, 0.0)
            if "median_ms" in row:
                tried.append((row["median_ms"], config or {}))
        if tried:
            best = min(tried, key=lambda pair: pair[0])
            times = {"triton_ms": best[0], "aten_ms": aten["median_ms"], "config": best[1]}
            found["entries"].append({**work.key, **times, "tried": len(tried)})
            _write(out, found)
    return found


def configurations(op: str) -> Iterator[dict[str, int]]:
    """Launch configurations to try, each a part of what a kernel is told."""
    for values in product(*TILES[op].values()):
        yield dict(zip(TILES[op], values, strict=True))


def works(shapes: tuple[Shape, ...], dtypes: tuple[str, ...], device: torch.device) -> Iterator[Work]:
    """Every pass of every shape, the first dtype first."""
    for dtype in dtypes:
        for shape in shapes:
            for passing in PASSES[shape.op]:
                yield {"depthwise_conv2d": _depthwise, "involution": _involution, "gnconv_gate": _gate}[shape.op](
                    shape, passing, dtype, device
                )


def time_form(work: Work, name: str, form: Callable, device: torch.device, floor: float) -> dict[str, Any]:
    """One row: the error first, then the time; `error` in words where it is wrong or did not run."""
    row: dict[str, Any] = {
        **work.key,
        "form": name,
        "floor_ms": floor,
        "bytes_min": work.bytes_min,
        "flops": work.flops,
    }
    try:
        inputs = work.make()
        row["relative_error"] = _distance(form(*inputs), work.exact(*inputs))
        if not row["relative_error"] <= LIMITS[work.dtype]:
            return {**row, "error": "wrong values: not timed"}
        sets = [inputs] + [work.make() for _ in range(num_sets(work.bytes_min, device) - 1)]
        with torch.no_grad():
            row["peak_mb"] = peak_mb(lambda: form(*inputs), device)
            row |= asdict(measure([lambda s=s: form(*s) for s in sets], device))
    except (RuntimeError, ValueError) as wrong:  # a form that cannot run here is a row, not the end
        return {**row, "error": str(wrong).splitlines()[0][:300]}
    if floor:
        row["times_floor"] = row["median_ms"] / floor
    return row


def floor_ms(work: Work, top: dict[str, float]) -> float:
    """What the measured ceilings allow: bytes at the copy rate, or the arithmetic, whichever is longer."""
    matrix = top["matmul_bfloat16_tflops" if work.dtype != "float32" else "matmul_float32_tflops"]
    rate = matrix if work.shape.op == "gnconv_gate" else top.get("fma_tflops", matrix)
    return max(work.bytes_min / top["copy_gbps"] / 1e6, work.flops / rate / 1e9)


def networks(device: torch.device, seconds_left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """Images per second at batch 128 in bfloat16, training and inference, by each provider.

    The published form of RedNet is `reference` (unfold), that of HorNet `aten`.
    """
    providers = {"rednet50": ("triton", "aten", "reference"), "hornet_tiny_7x7": ("triton", "aten")}
    for name, mode in product(providers, ("inference", "training")):
        for backend in providers[name]:
            row: dict[str, Any] = {"network": name, "mode": mode, "provider": backend, "batch_size": 128}
            if seconds_left() < 10:
                yield {**row, "error": "no time left"}
                continue
            try:
                with _forced(backend):
                    yield {**row, **_network(name, mode, device)}
            except RuntimeError as wrong:  # out of memory among them
                yield {**row, "error": str(wrong).splitlines()[0][:300]}
            finally:
                torch.cuda.empty_cache()


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": __import__("triton").__version__ if machine_obstacle() is None else None,
        "python": platform.python_version(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "seed": 0,
        "clock": "events around replays of a CUDA graph" if gpu else "process time",
    }


def table_path(device: str) -> Path:
    """Where the dispatcher looks for the table of this device."""
    return dispatch.TABLES / f"{dispatch.gpu_name(torch.device(device))}.json"


def _depthwise(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, k, c = getattr(torch, dtype), shape.kernel, shape.channels
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, 1.0)
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        weight = torch.randn(c, 1, k, k, device=device).to(kind)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[passing]

    def form(module) -> Callable:
        rest = {"forward": (None, None), "grad_input": ((shape.size,) * 2,), "grad_weight": ((k, k),)}[passing]

        def run(a, b, **options):
            return getattr(module, passing)(a, b, *rest, *geometry, **options)

        return run

    aten = form(depthwise_aten)
    forms: dict[str, Callable] = {
        "channels_last": aten,
        "contiguous": lambda a, b: aten(a.contiguous(), b.contiguous()),
    }
    if machine_obstacle() is None:
        from kernels.depthwise_conv2d import triton

        forms["triton"] = form(triton)
    width = torch.finfo(kind).bits // 8
    maps = shape.images * c * (shape.size**2 + out**2)
    return Work(
        shape, passing, dtype, make, forms, lambda a, b: aten(a.double(), b.double()),
        width * maps + width * c * k * k, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip


def _involution(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, k, c, groups = getattr(torch, dtype), shape.kernel, shape.channels, shape.channels // shape.width
    geometry = ((shape.stride,) * 2, (k // 2,) * 2, (1, 1))
    out = (shape.size - 1) // shape.stride + 1

    def make() -> tuple:
        x, grad = (_map(shape.images, c, size, kind, device) for size in (shape.size, out))
        dims = (shape.images, out, out, k, k, groups)
        weight = torch.randn(dims, device=device, dtype=kind).permute(0, 5, 4, 3, 1, 2)
        first = {"forward": (x, weight), "grad_input": (grad, weight), "grad_weight": (grad, x)}
        return first[passing]

    def form(module) -> Callable:
        rest = {"forward": (), "grad_input": ((shape.size,) * 2,), "grad_weight": (groups, (k, k))}[passing]
        return lambda a, b: getattr(module, passing)(a, b, *rest, *geometry)

    forms = {"aten": form(involution_aten), "unfold": form(involution_unfold)}
    if machine_obstacle() is None:
        from kernels.involution import triton

        def ours(a, b, config=None):
            if passing != "grad_weight":
                rest = {"forward": (), "grad_input": ((shape.size,) * 2,)}[passing]
                return getattr(triton, passing)(a, b, *rest, *geometry, config=config)
            dims = (shape.images, out, out, k, k, groups)
            target = torch.empty(dims, dtype=kind, device=device).permute(0, 5, 4, 3, 1, 2)
            return triton.grad_weight(a, b, target, *geometry, config=config)

        forms["triton"] = ours
    width = torch.finfo(kind).bits // 8
    values = shape.images * (c * (shape.size**2 + out**2) + groups * k * k * out**2)
    exact = form(involution_aten)
    return Work(
        shape, passing, dtype, make, forms, lambda a, b: exact(a.double(), b.double()),
        width * values, 2 * shape.images * c * out**2 * k * k,
    )  # fmt: skip


def _gate(shape: Shape, passing: str, dtype: str, device: torch.device) -> Work:
    kind, outer, inner, size = getattr(torch, dtype), shape.channels, shape.width, shape.size

    def make() -> tuple:
        y, a = (
            _map(shape.images, inner, size, kind, device),
            _map(shape.images, 2 * outer, size, kind, device)[:, outer:],
        )
        weight, bias = torch.randn(outer, inner, 1, 1, device=device), torch.randn(outer, device=device)
        return y, a, (weight / inner**0.5).to(kind), bias.to(kind)

    forms: dict[str, Callable] = {"aten": gate_aten.forward}
    if machine_obstacle() is None:
        from kernels.gnconv_gate import triton

        forms["triton"] = triton.forward
    pixels = shape.images * size**2
    width = torch.finfo(kind).bits // 8
    return Work(
        shape, passing, dtype, make, forms, lambda *t: gate_aten.forward(*(x.double() for x in t)),
        width * (pixels * (inner + 2 * outer) + inner * outer), 2 * pixels * inner * outer,
    )  # fmt: skip


def _network(name: str, mode: str, device: torch.device) -> dict[str, Any]:
    from nas.model import build_model
    from nas.published_genotypes import PUBLISHED

    torch.manual_seed(0)
    model = build_model(PUBLISHED[name]).to(device).train(mode == "training")
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.randn(128, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (128,), device=device)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(mode == "training"):
            y = model(images)
        if mode == "training":
            F.cross_entropy(y.float(), labels).backward()
            model.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    peak = peak_mb(step, device)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    times.sort()
    median = (times[4] + times[5]) / 2
    return {"images_per_second": 128 / median, "median_ms": median * 1e3, "p20_ms": times[2] * 1e3,
            "p80_ms": times[7] * 1e3, "num_runs": len(times), "peak_mb": peak}  # fmt: skip


class _forced:
    """OPNAS_KERNELS for a while."""

    def __init__(self, backend: str):
        self.backend = backend

    def __enter__(self) -> None:
        self.before = os.environ.get(dispatch.VARIABLE)
        os.environ[dispatch.VARIABLE] = self.backend

    def __exit__(self, *_) -> None:
        os.environ.pop(dispatch.VARIABLE)
        if self.before is not None:
            os.environ[dispatch.VARIABLE] = self.before


def _map(n: int, c: int, size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(n, size, size, c, device=device, dtype=dtype).permute(0, 3, 1, 2)


def _distance(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error in the Euclidean norm; NaN where a value is."""
    return ((actual.double() - exact).norm() / exact.norm()).item()


def _device(name: str) -> torch.device:
    if name != "cpu" and not torch.cuda.is_available():
        raise MachineError(f"--device {name}: this machine has no usable GPU; cpu is there")
    torch.manual_seed(0)
    return torch.device(name)


def _write(out: Path, found: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(out)
