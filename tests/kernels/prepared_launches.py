"""Launches that were prepared against those that Triton makes, with a driver for a GPU that is not there; prints
how many were alike. Run by test_kernel_launching.py in a process of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.kernels._core import prepared
from nas.kernels._core.forms import Case, Spec
from nas.kernels._core.launch import Launch
from nas.kernels.depthwise_conv2d import triton as depthwise
from nas.kernels.odconv2d import triton_mixing
from nas.kernels.self_calibrated_gate import triton as gate
from nas.kernels.tools import choosing, compiling
from nas.kernels.tools.stub_driver import StubDriver, set_active

DRIVER = StubDriver()


def a_map(channels: int, size: int, first: int = 0) -> torch.Tensor:
    """Of `channels`, behind `first` of four others in memory."""
    return torch.empty(2, size, size, channels + 4).permute(0, 3, 1, 2)[:, first : first + channels]


def addresses(values: tuple[Any, ...]) -> list[Any]:
    return [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in values]


def compare(describe: Callable[..., Any], new: Callable[[], tuple[Any, ...]], *own: int) -> None:
    """`new` makes other tensors at each call, of the same sizes; `own` are the kernel's arguments that it makes."""
    kept = [new() for _ in range(3)]  # none gets the memory of another one
    DRIVER.started.clear()
    for arguments in kept:
        prepared.start(describe, *arguments)
    count = len(DRIVER.started) // len(kept)
    for number, arguments in enumerate(kept):
        launches = describe(*arguments)
        for i, launch in enumerate([launches] if isinstance(launches, Launch) else launches):
            launch()
            (*kernel, given), (*kernel_now, given_now) = DRIVER.started[number * count + i], DRIVER.started[-1]
            assert kernel == kernel_now, describe
            pairs = zip(addresses(given), addresses(given_now), strict=True)
            differing = [at for at, (a, b) in enumerate(pairs) if a != b]
            assert differing == list(own), (describe, number, differing)
            assert all(isinstance(given[at], int) for at in own) or number == 0
    assert len(DRIVER.started) == 2 * count * len(kept)
    print(count)


def main() -> None:
    set_active(DRIVER)
    ones, twos = (1, 1), (2, 2)
    compare(
        depthwise.grad_input_launches,
        lambda: (a_map(8, 3), torch.empty(3, 3, 8), a_map(8, 6), twos, ones, 1.0, None),
    )
    factors = (torch.empty(2, 3), torch.empty(2, 4), torch.empty(2, 5))
    compare(
        triton_mixing.mix_grads_launch,
        lambda: (torch.empty(2, 4, 5), torch.empty(3, 4, 5), *(torch.empty_like(t) for t in factors)),
        *(5, 6, 7, 8),
    )
    for first in (0, 1):  # what starts at no multiple of 16 bytes is other code
        compare(gate.gate_launch, lambda first=first: (a_map(8, 4, first), *(a_map(8, size) for size in (4, 2, 4))))
    assert len(prepared._ready) == 4
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    coarse = Spec((2, 8, 3, 3), torch.bfloat16, torch.device("cpu"), True, True)
    fine = coarse._replace(shape=(2, 8, 6, 6))
    case = Case("self_calibrated_gate_provider", "training", ("cpu", 1), (fine, fine, coarse))
    assert compiling.compile_cases({case: "aten"}, math.inf) == 2
    compiled = set(Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin"))
    DRIVER.started.clear()
    choosing.once(case, "triton")
    assert [name for name, *_ in DRIVER.started] == ["calibrated_gate"] * 2
    assert set(Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")) == compiled
    print("compiled before")


if __name__ == "__main__":  # which the processes that compile are not
    main()
