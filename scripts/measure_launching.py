"""Host time of a call of a Triton kernel up to where the GPU's driver takes over, with a driver for a GPU that is not
there.

python scripts/measure_launching.py [results/kernels/launching.json]
`prepared` is what runs; `described` works out the launch at each call and goes through Triton's own search for what it
compiled, as before a launch is kept. Microseconds of the process, the least of ROUNDS of CALLS calls; `add_us` is
PyTorch's addition of two tensors of 8 values, for scale.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from nas.base.machine import processor
from nas.kernels._core.geometry import forward_axis
from nas.kernels._core.launch import Launch
from nas.kernels._core.prepared import start
from nas.kernels._triton.product import product_launch
from nas.kernels.depthwise_conv2d import triton as depthwise
from nas.kernels.involution import triton as involution
from nas.kernels.odconv2d import triton_mixing
from nas.kernels.tools.stub_driver import StubDriver, set_active

ROUNDS, CALLS = 10, 300


def calls() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Name -> what describes the launch, and its arguments."""
    half, ones, one = torch.bfloat16, (1, 1), forward_axis(3, 1, 1)

    def map_of(channels: int) -> torch.Tensor:
        return torch.empty(8, 8, 8, channels, dtype=half).permute(0, 3, 1, 2)

    weight = torch.empty(8, 8, 8, 7, 7, 4, dtype=half).permute(0, 5, 4, 3, 1, 2)
    axis, packed = forward_axis(7, 1, 3), torch.empty(7, 7, 64)
    dense = torch.empty(1, 64, 3, 3, 64, dtype=half).movedim(-1, 2)
    mixed = (torch.empty(4, 64, 576, dtype=half), torch.empty(8, 4), torch.empty(8, 64), torch.empty(8, 576))
    return {
        "involution forward": (involution.forward_launch, (map_of(64), weight, map_of(64), ones, (3, 3), ones, None)),
        "involution grad_weight": (
            involution.grad_weight_launch,
            (map_of(64), map_of(64), weight, ones, (3, 3), ones, None),
        ),
        "depthwise_conv2d forward": (
            depthwise.window_launch,
            (map_of(64), packed, None, None, map_of(64), (axis, axis), 1.0, None),
        ),
        "depthwise_conv2d grad_weight": (
            depthwise.grad_weight_launch,
            (map_of(64), map_of(64), (axis, axis), None),
        ),
        "conv2d forward": (
            product_launch,
            (map_of(64), dense, map_of(64), (one, one), 1, False, None, None, None, None, None),
        ),
        "odconv2d mixing": (triton_mixing.mix_launch, (*mixed, torch.empty(8, 64, 576, dtype=half))),
    }


def microseconds(call: Callable[[], object]) -> float:
    """Of the process, per call."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(CALLS):
            call()
        times.append((time.process_time() - begin) / CALLS)
    return round(min(times) * 1e6, 2)


def main(out: str | None) -> None:
    driver = StubDriver()
    set_active(driver)
    a, b = torch.randn(8), torch.randn(8)
    rows = []
    for name, (describe, arguments) in calls().items():

        def described(describe=describe, arguments=arguments) -> None:
            launch = describe(*arguments)
            assert isinstance(launch, Launch)
            launch()

        driver.notes = True
        driver.started.clear()
        for call in (described, lambda: start(describe, *arguments), lambda: start(describe, *arguments)):  # noqa: B023
            call()
        assert len(driver.started) == 3
        driver.notes = False
        row = {"call": name, "num_arguments": len(driver.started[0][2]), "described_us": microseconds(described)}
        row["prepared_us"] = microseconds(lambda: start(describe, *arguments))  # noqa: B023
        print(row, flush=True)
        rows.append(row)
    about = {"processor": processor(), "python": platform.python_version(), "torch": torch.__version__}
    about |= {"triton": triton.__version__, "rounds": ROUNDS, "calls": CALLS}
    about["add_us"] = microseconds(lambda: torch.add(a, b))
    print(about)
    if out:
        Path(out).write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else None)
