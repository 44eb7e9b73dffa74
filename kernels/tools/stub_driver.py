"""A driver for a GPU that is not there: Triton compiles for it, and what would be started on it is noted instead.

Tensors are on the CPU; nothing reads or writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

TARGET = GPUTarget("cuda", 90, 32)
LIMITS = {"max_shared_mem": 227 * 1024, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32}


@dataclass
class StubDriver:
    """What Triton asks of a driver. `started`: name, grid and arguments of each kernel, where `notes` is set."""

    target: GPUTarget = TARGET
    notes: bool = True
    started: list[tuple[str, tuple[int, int, int], tuple[Any, ...]]] = field(default_factory=list)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def is_active(self) -> bool:
        return True

    @property
    def utils(self) -> SimpleNamespace:
        return SimpleNamespace(
            load_binary=lambda name, code, shared, device: (0, 0, 0, 0, 1024),
            get_device_properties=lambda device: LIMITS,
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        name = metadata.name

        def launch(x: int, y: int, z: int, stream, function, packed, about, enter, leave, *arguments: Any) -> None:
            if self.notes:
                self.started.append((name, (x, y, z), arguments))

        return launch


def set_active(driver: StubDriver) -> None:
    """Have Triton use it in this process."""
    triton.runtime.driver.set_active(driver)  # pyright: ignore[reportArgumentType]
