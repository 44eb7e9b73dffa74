"""Whole networks for `nas bench kernels`: images per second, ours and the published formulation, eager and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from torch import nn

from nas.kernels.tools.rows import in_words
from nas.kernels.tools.settings import forced
from nas.kernels.tools.timing import peak_mb
from nas.networks.fuse import fuse_for_inference
from nas.networks.model import build_model
from nas.space.published import PUBLISHED


@dataclass(frozen=True)
class Load:
    """What goes through a network; runs are timed one by one, `warm` before them."""

    batch_sizes: tuple[int, ...]
    resolution: int
    warm: int
    runs: int


# the published formulation: unfold for involution, a kernel of each sample from n copies for ODConv, the FFT for the
# global filter, else PyTorch's own forms
PUBLISHED_FORMS = "aten," + ",".join(
    f"{op}=reference" for op in ("involution", "spanned_involution", "odconv2d", "global_filter")
)
PLAIN = ("resnet18", "resnet50", "convnext_tiny")  # the alternative without our operators, by timm
LOADS = {
    "core": Load((128,), 224, 3, 10),
    "networks": Load((1, 128), 224, 3, 10),
    "slot": Load((1, 128), 224, 3, 10),
    "tiny": Load((2,), 32, 1, 3),
}
NETWORKS = {
    "core": ("rednet50", "hornet_tiny_7x7"),
    "slot": ("rednet50", "hornet_tiny_7x7"),
    "networks": (
        *("rednet50", "od_resnet18_4x", "od_resnet50_4x", "od_mobilenetv2_100_4x", "scnet50"),
        *("hornet_tiny_7x7", "hornet_tiny_gf", "resnet50", "convnext_tiny"),
    ),
    "tiny": ("rednet26", "resnet18"),
}


def networks(
    device: torch.device, suite: str, compiled: bool, seconds_left: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """A row per network, mode and form, the same weights in all of ours; `error` in words where there is no time."""
    load = LOADS[suite]
    for compile_it in (False, True) if compiled else (False,):  # what takes longest comes last
        for name in NETWORKS[suite]:
            for mode in ("inference", "training"):
                for form, backend in _forms(name, mode, device, compile_it).items():
                    for batch_size in load.batch_sizes if mode == "inference" else load.batch_sizes[-1:]:
                        row = {"network": name, "mode": mode, "form": form, "batch_size": batch_size}
                        yield row | _row(name, mode, form, backend, batch_size, load, device, compile_it, seconds_left)


def _forms(name: str, mode: str, device: torch.device, compile_it: bool) -> dict[str, str]:
    """Form -> value of OPNAS_KERNELS."""
    forms = {"timm": "auto"} if name in PLAIN else {"published": PUBLISHED_FORMS, "auto": "auto"}
    if device.type == "cuda" and "auto" in forms:
        forms["triton"] = "triton,global_filter=aten"  # which has no kernel: its product is cuBLAS's
    if mode == "inference":
        forms["fused"] = "auto"
        if "triton" in forms:
            forms["fused_triton"] = forms["triton"]
    return {f"{form}_compiled": backend for form, backend in forms.items()} if compile_it else forms


def _row(name, mode, form, backend, batch_size, load, device, compile_it, seconds_left) -> dict[str, Any]:
    if seconds_left() < 10:
        return {"error": "no time left"}
    try:
        with forced(backend):
            torch.manual_seed(0)
            model = timm.create_model(name) if form.startswith("timm") else build_model(PUBLISHED[name])
            model = model.to(device).train(mode == "training")
            model = fuse_for_inference(model) if form.startswith("fused") else model
            model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            if compile_it:
                torch.compiler.reset()
                model = cast(nn.Module, torch.compile(model))
            return _times(model, mode == "training", batch_size, load, device)
    except Exception as wrong:  # memory that is full, what Triton raises: a row, and the next network is tried
        return {"error": in_words(wrong)}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _times(model: nn.Module, training: bool, batch_size: int, load: Load, device: torch.device) -> dict[str, Any]:
    gpu = device.type == "cuda"
    images = torch.randn(batch_size, 3, load.resolution, load.resolution, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch_size,), device=device)

    def step() -> None:
        # a CPU without 16-bit arithmetic would take minutes
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu), torch.set_grad_enabled(training):
            y = model(images)
        if training:
            F.cross_entropy(y.float(), labels).backward()
            model.zero_grad(set_to_none=True)

    def timed() -> float:
        start = time.perf_counter()
        step()
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(load.warm):
        timed()
    peak = peak_mb(step, device)
    times = sorted(timed() for _ in range(load.runs))
    count = len(times)
    median = (times[(count - 1) // 2] + times[count // 2]) / 2
    low, high = times[count // 5], times[-1 - count // 5]
    return {"images_per_second": batch_size / median, "median_ms": median * 1e3, "p20_ms": low * 1e3,
            "p80_ms": high * 1e3, "num_runs": count, "peak_mb": peak}  # fmt: skip
