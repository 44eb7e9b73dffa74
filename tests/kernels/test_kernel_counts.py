"""What the shipped launches cost on paper, instructions, spills and waves, stays as in the committed report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="there is no triton for this platform")
import triton

from nas.kernels._core.operation import Shape
from nas.kernels.tools import ahead, shipped

REPORT = json.loads((Path(__file__).parents[2] / "results/kernels/counts.json").read_text(encoding="utf-8"))
DEPTHWISE, INVOLUTION = "depthwise_conv2d", "involution"
SHAPES = {shape.name: shape for shape in shipped.SHAPES}
MORE = 1.03  # than in the report, at most; by another version of triton or ptxas
MORE_BY_ANOTHER = 1.15


def rows(*ops: str) -> list[dict[str, Any]]:
    return [row for row in REPORT["rows"] if row["case"].split()[0] in ops]


def described(shape: Shape) -> dict[tuple[str, int], tuple[ahead.Launch, int]]:
    """(pass, number of its launch) -> the launch of now, and the trips of its loop."""
    phases: Counter[str] = Counter()
    found = {}
    for pass_name, launch, trips in shipped.launches(shape, torch.bfloat16):
        found[pass_name, phases[pass_name]] = launch, trips
        phases[pass_name] += 1
    return found


def test_the_report_is_of_the_launches_of_now():
    """Their tiles and warps: whoever changes them counts anew, with python -m kernels.ahead."""
    named = {}
    for row in REPORT["rows"]:
        now = named.setdefault(row["case"], described(SHAPES[row["case"]]))
        launch, _ = now[row["pass"], row["phase"]]
        assert launch.num_warps == row["num_warps"], row
        assert {name: launch.constants[name] for name in row["tile"]} == row["tile"], row
    counted = {(row["case"], row["target"]) for row in rows(DEPTHWISE, INVOLUTION)}
    windows = [shape for shape in shipped.SHAPES if shape.op in (DEPTHWISE, INVOLUTION)]
    assert {(shape.name, "sm_90") for shape in windows} <= counted
    hornet = [shape for shape in windows if shape.op == DEPTHWISE][:4]
    assert {(shape.name, target) for shape in hornet for target in ("sm_80", "sm_89", "sm_120")} <= counted


def test_nothing_of_the_report_spills():
    assert not [row for row in REPORT["rows"] if ahead.wrong(row)]


def test_depthwise_filters_of_hornet_take_few_instructions():
    """K=7: 49 multiply-adds are the least; a kernel that loads a pixel for each of them needs 200 and more."""
    counted = {
        row["case"]: row["instructions_per_value"]
        for row in rows(DEPTHWISE)
        if "K=7" in row["case"] and row["pass"] in ("forward", "grad_input") and row["target"] == "sm_90"
    }
    assert len(counted) == 5 and all(49 < count <= 85 for count in counted.values()), counted


def test_the_sum_of_a_filters_gradient_fills_the_gpu():
    """In whole rounds: what is left over in a last one leaves most multiprocessors idle."""
    found = [row for row in rows(DEPTHWISE) if row["pass"] == "grad_weight" and row["target"] == "sm_90"]
    large = [row["waves"] for row in found if SHAPES[row["case"]].images * SHAPES[row["case"]].size > 1024]
    assert len(large) >= 6 and all(0.7 <= waves <= 1.0 or waves >= 3 for waves in large), large


@pytest.mark.parametrize(
    ("case", "pass_name"),
    [
        ("depthwise_conv2d 128x992x7x7 K=7", "forward"),
        ("depthwise_conv2d 128x480x14x14 K=7", "grad_weight"),
        ("involution 128x512x7x7 K=7", "forward"),
        ("global_filter 128x240x14x14 K=14", "grad_weight"),
    ],
)
def test_machine_code_is_no_longer_than_in_the_report(case, pass_name):
    (row,) = [r for r in REPORT["rows"] if (r["case"], r["pass"], r["target"]) == (case, pass_name, "sm_90")]
    launch, trips = described(SHAPES[case])[pass_name, 0]
    report = ahead.compile_launch(launch, "sm_90", trips)
    assert report.spilled_bytes == 0
    shape = SHAPES[case]
    count = ahead.per_value(launch, report, shape.images * shape.channels * ((shape.size - 1) // shape.stride + 1) ** 2)
    if count is None:
        pytest.skip("this triton has no disassembler")
    most = MORE if triton.__version__ == REPORT["triton"] else MORE_BY_ANOTHER
    assert count <= most * row["instructions_per_value"]
