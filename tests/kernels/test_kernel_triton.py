"""The Triton kernels without a GPU: run by the interpreter in a process of their own, compiled for GPUs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")
from nas.kernels.odconv2d import triton_n_fold
from nas.kernels.tools import ahead, shipped

TESTS = Path(__file__).parent
INTERPRETED = 154  # tests in these files
FILES = ("interpreted_kernels.py", "interpreted_contract.py")


def test_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--show-capture=no"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{TESTS.parents[1]}"}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [*command, *(str(TESTS / name) for name in FILES)], capture_output=True, text=True, env=environment
    )
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and passed, run.stdout[-4000:] + run.stderr[-2000:]
    assert int(passed.group(1)) >= INTERPRETED and "skipped" not in run.stdout


def launches(op: str, kernel: int, dtype: torch.dtype, pass_name: str = "forward"):
    """Of the first shape that has this pass."""
    for shape in (s for s in shipped.SHAPES if s.op == op and s.kernel == kernel):
        found = {name: (launch, trips) for name, launch, trips in shipped.launches(shape, dtype)}
        if pass_name in found:
            return found
    raise LookupError(f"{op} {pass_name}")


@pytest.mark.parametrize(
    ("op", "pass_name", "kernel", "dtype", "target"),
    [
        ("depthwise_conv2d", "grad_weight", 3, torch.float32, "sm_100"),
        ("involution", "forward", 3, torch.bfloat16, "sm_80"),
        ("spanned_involution", "forward", 3, torch.bfloat16, "sm_90"),
        ("gnconv_gate", "forward", 1, torch.bfloat16, "sm_90"),
        ("gnconv_gate", "forward", 1, torch.float16, "gfx942"),
        ("gnconv_recursion", "forward", 1, torch.bfloat16, "sm_80"),
        ("odconv2d", "n_fold grads", 3, torch.bfloat16, "sm_80"),
        ("odconv2d", "kernels' gradients", 3, torch.float32, "sm_90"),
        ("self_calibrated_gate", "forward", 1, torch.float16, "sm_100"),
        ("self_calibrated_gate", "grad_input", 1, torch.bfloat16, "sm_80"),
        ("global_filter", "grad_weight", 14, torch.float32, "sm_80"),
    ],
)
def test_compiles_without_spilling(op, pass_name, kernel, dtype, target):
    """A slice of what `python -m kernels.ahead` compiles."""
    launch, trips = launches(op, kernel, dtype, pass_name)[pass_name]
    report = ahead.compile_launch(launch, target, trips)
    assert report.spilled_bytes == 0
    assert 0 < report.registers <= 255
    assert report.shared_bytes <= ahead.SHARED_LIMIT[target]
    if op in ("gnconv_gate", "gnconv_recursion", "odconv2d", "spanned_involution", "global_filter"):
        assert report.matrix_instructions > 0


def test_a_launch_for_one_image_compiles():
    """Triton makes a constant of a 1."""
    image = torch.empty(1, 7, 7, 32, dtype=torch.bfloat16, device="meta").permute(0, 3, 1, 2)
    weight = torch.empty(4, 32, 3, 3, 32, dtype=torch.bfloat16, device="meta").movedim(-1, 2)
    factors, geometry = torch.empty(1, 4, 3, 3, device="meta"), ((1, 1), (1, 1), (1, 1))
    for launch in triton_n_fold.grads_launches(image, image, weight, factors, image, *geometry):
        assert ahead.compile_launch(launch, "sm_90").spilled_bytes == 0


def test_a_report_by_a_pool_goes_on_where_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHAPES", [next(s for s in shipped.SHAPES if s.op == "self_calibrated_gate")])
    out, targets = tmp_path / "report.json", ("sm_80", "sm_90", "sm_120")
    wanted = [word for target in targets for word in ("--target", target)]
    command = ["ahead", *wanted, "--dtype", "bfloat16", "--out", str(out), "--seconds"]

    def rows(seconds: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", [*command, seconds])
        with pytest.raises(SystemExit) as end:
            ahead.main()
        assert end.value.code == 0
        return json.loads(out.read_text(encoding="utf-8"))["rows"]

    begun = rows("0")
    every = rows("inf")
    expected = [
        ahead.compile_launch(launch, target, trips).to_json()
        for target in targets
        for _, launch, trips in shipped.launches(shipped.SHAPES[0], torch.bfloat16)
    ]
    assert 0 < len(begun) < len(expected) and every[: len(begun)] == begun
    assert [{name: row[name] for name in expected[0]} for row in every] == expected


def test_an_unknown_target():
    launch, _ = launches("gnconv_gate", 1, torch.bfloat16)["forward"]
    with pytest.raises(ValueError, match=r"target = 'sm_1': allowed is one of sm_80"):
        ahead.compile_launch(launch, "sm_1")
