"""The program for a GPU that is lent for minutes, rehearsed without one: interpreted, by a clock that stands still."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton", reason="there is no triton for this platform")
from faulty_slot import FAULTS, SOUND

ROOT, FAULTY = Path(__file__).parents[2], Path(__file__).with_name("faulty_slot.py")
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("pydantic", "ray", "optuna", "timm", "torchvision"), None))
import kernels.tools.slot
assert "nas" not in sys.modules
"""
COMPILES = """
import torch, triton
from triton.backends.compiler import GPUTarget
from kernels.tools import shipped

class NoGpu:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device=None): return 0
    def is_active(self): return True

triton.runtime.driver.set_active(NoGpu())
shape = next(shape for shape in shipped.TINY if shape.op == "self_calibrated_gate")
for _, launch, _ in shipped.launches(shape, torch.bfloat16):
    launch.compile()
"""


def python(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_needs_torch_and_triton_alone():
    done = python("-c", WITHOUT)
    assert done.returncode == 0, done.stderr


def test_compiles_ahead_for_the_current_gpu(tmp_path):
    done = python("-c", COMPILES, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("calibrated_gate*.cubin"))) == 2


def test_every_fault_is_a_row_and_costs_nothing_else(tmp_path):
    start = time.monotonic()
    assert python(FAULTY, "--help", LIMIT="1").returncode == 0
    limit = 6 * (time.monotonic() - start)  # of processes that do little more; several start side by side
    options = ("--tiny", "--device", "cpu", "--out", tmp_path, "--seconds", str(100 * limit))
    done = python(FAULTY, *options, TRITON_INTERPRET="1", LIMIT=str(limit))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for stage in ("check", "time"):
        of = {op: [row for row in rows if row["stage"] == stage and row["op"] == op] for op in (*FAULTS, SOUND)}
        triton = [row["error"] for row in of["involution"] if row.get("form") == "triton"]
        assert len(triton) == 3 and all(error.startswith("OutOfResources: out of resource") for error in triton)
        assert [row.get("error") for row in of["self_calibrated_gate"]] == [None, "ended by SIGSEGV"]
        assert [row.get("error") for row in of["gnconv_recursion"]] == [None, f"stopped after {limit:.0f} s"]
        assert len(of[SOUND]) == 4 and not any("error" in row for row in of[SOUND])
        assert all("error" not in row for row in of["involution"] if row["form"] != "triton")
        assert all(row["relative_error"] < 1e-6 and ("median_ms" in row) == (stage == "time") for row in of[SOUND])
    assert {row["op"] for row in json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))["entries"]} == {SOUND}
    the_dispatcher_takes(tmp_path / "cpu.json")


def the_dispatcher_takes(table: Path) -> None:
    """As that of the GPU whose tensors these are, though it is not there."""
    from nas import kernels
    from nas.kernels._core import dispatch

    name = dispatch.gpu_name(torch.device("cuda"))
    table.rename(table.with_name(f"{name}.json"))
    before, dispatch.TABLES = dispatch.TABLES, table.parent
    try:
        with FakeTensorMode(), torch.device("cuda"):
            tensors = [torch.empty(size) for size in ((2, 8, 6, 6), (2, 16, 6, 6), (16, 8, 1, 1), (16,))]
            choice = kernels.explain(SOUND, *tensors)
    finally:
        dispatch.TABLES = before
    assert choice.provider == "aten" and "1 ms by triton against 1 ms by aten" in choice.reason
