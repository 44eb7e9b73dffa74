"""The CPUs: what they are called, and how many this process was given, which may be fewer than the machine has."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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


def processor() -> str:
    """The name of the CPU; where the system does not tell it, of its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
