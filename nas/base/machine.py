"""The CPUs and the memory that this process may use, and a description of the machine for records."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2 and 1


def num_cpus(cgroup: Path = CGROUP) -> int:
    """Those it may run on (taskset, a SLURM job's share), and no more than its container's quota; at least 1."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # of version 2 and 1
        try:
            quota, period = (
                float(word) for name in names for word in (cgroup / name).read_text(encoding="utf-8").split()
            )
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0:
            given = min(given, int(quota / period))
    return max(1, given)


def host_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of the machine's memory without swap, or the part of it that this container may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # absent, or "max"
            found.append(int((cgroup / name).read_text(encoding="utf-8")))
    return min(found)


def describe_machine(packages: Iterable[str]) -> dict[str, Any]:
    """Versions of the packages that are installed and of Python, the platform, the host's name and its processor."""
    return {
        "versions": {name: version for name in packages if (version := _version(name))},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": processor(),
    }


def processor() -> str:
    """The name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
