"""The benchmark of the kernels, run for real on a CPU with tiny shapes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from helpers.searches import write_experiment
from nas.base.errors import MachineError, UserError
from nas.bench import plots as bench_plots
from nas.bench.kernels import bench
from nas.cli import cli
from nas.kernels.operations import OPERATIONS
from nas.kernels.tools.rows import floor_ms, time_forms
from nas.kernels.tools.shipped import TINY
from nas.kernels.tools.work import works

CPU = torch.device("cpu")
DEPTHWISE = OPERATIONS["depthwise_conv2d"].tiny


def test_every_pass_by_every_form(tmp_path):
    found = bench(tmp_path / "out.json", "tiny", "cpu", compiled=False)
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert not found["skipped"] and found["ceilings"]["copy_gbps"] > 0
    seen = {(row["op"], row["pass"], row["dtype"]) for row in found["rows"]}
    assert seen == {
        (op, pass_name, d) for op in OPERATIONS for pass_name in OPERATIONS[op].passes for d in ("bfloat16", "float32")
    }
    for row in found["rows"]:
        if row["form"] == "triton" and not torch.cuda.is_available():
            assert "error" in row and "median_ms" not in row
            continue
        assert row["relative_error"] < 1e-2 and row["num_runs"] >= 6
        assert 0 < row["p20_ms"] <= row["median_ms"] <= row["p80_ms"]
        assert row["times_floor"] == row["median_ms"] / row["floor_ms"]
    both = {row["tf32"] for row in found["rows"] if row["op"] == "gnconv_gate" and row["dtype"] == "float32"}
    assert both == {False, True}
    models = {(row["network"], row["mode"], row["form"]): row for row in found["models"]}
    expected = {(mode, form) for mode in ("inference", "training") for form in ("published", "auto")}
    assert set(models) == {("rednet26", *both) for both in expected | {("inference", "fused")}} | {
        ("resnet18", mode, form) for mode, form in (("inference", "timm"), ("inference", "fused"), ("training", "timm"))
    }
    assert all(row["images_per_second"] > 0 for row in models.values())
    bench_plots.plot(found, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_what_does_not_fit_in_the_time_is_listed(tmp_path):
    found = bench(tmp_path / "out.json", "tiny", "cpu", seconds=1e-9, compiled=False)
    assert len(found["skipped"]) == sum(1 for _ in works(TINY, ("bfloat16", "float32"), CPU)) and not found["rows"]
    assert all(row["error"] == "no time left" for row in found["models"])


def test_wrong_values_get_no_time():
    work = next(works(DEPTHWISE, ("float32",), CPU))
    form = work.forms["channels_last"]
    wrong = {"off": lambda *t: 1.01 * form(*t), "nan": lambda *t: form(*t) * float("nan")}
    for row in time_forms(work, wrong, CPU, 1.0):
        assert row["error"] == "wrong values: not timed" and "median_ms" not in row


class TritonsOwn(Exception):
    """As triton.TritonError, which is no RuntimeError."""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (TritonsOwn("out of resource: shared memory"), "TritonsOwn: out of resource: shared memory"),
        (RuntimeError(), "RuntimeError"),
        (AssertionError("two\nlines"), "AssertionError: two"),
        (ImportError("no module"), "ImportError: no module"),
    ],
)
def test_whatever_a_form_raises_is_a_row(wrong, words):
    def fails(*_):
        raise wrong

    work = next(works(DEPTHWISE, ("float32",), CPU))
    failed, other = time_forms(work, {"fails": fails, "other": work.plain}, CPU, 0.0)
    assert failed["error"] == words and other["median_ms"] > 0
    broken = dataclasses.replace(work, exact=fails)
    assert [row["error"] for row in time_forms(broken, broken.forms, CPU, 0.0)] == [words] * len(work.forms)


def test_the_floor_is_the_longer_of_memory_and_arithmetic():
    work = next(works(DEPTHWISE, ("float32",), CPU))
    top = {"copy_gbps": 1.0, "matmul_float32_tflops": 1e9}
    assert floor_ms(work, top) == pytest.approx(work.bytes_min / 1e6)
    assert floor_ms(work, {**top, "fma_tflops": 1e-9}) == pytest.approx(work.flops)
    # x, y and the filter of 2x8x6x6, K = 3
    assert (work.bytes_min, work.flops) == (4 * (2 * 2 * 8 * 36 + 8 * 9), 2 * 2 * 8 * 36 * 9)
    assert dataclasses.replace(work, dtype="bfloat16").key["dtype"] == "bfloat16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("command", ["kernels --out x.json", "tune rednet26"])
def test_without_a_gpu(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli, ["bench", *command.split(), "--device", "cuda"])
    assert isinstance(run.exception, MachineError) and "no usable GPU" in str(run.exception)
    assert not list(tmp_path.iterdir())


def test_tuning_ahead_leaves_nothing_to_measure(tmp_path, monkeypatch):
    """A network by its name, a space by its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    write_experiment(tmp_path)
    for asked in (["od_resnet18_2x", "--resolution", "32", "--batch-size", "2"], ["tiny.yaml"]):
        said = [CliRunner().invoke(cli, ["bench", "tune", *asked, "--device", "cpu"]).output for _ in range(2)]
        assert " 0 known, " in said[0] and " 0 measured, " in said[1], said
    assert list((tmp_path / "results/.cache/kernels").glob("*.json"))


@pytest.mark.parametrize("name", ["no_such_network", "absent.yaml"])
def test_nothing_to_tune(name):
    run = CliRunner().invoke(cli, ["bench", "tune", name, "--device", "cpu"])
    assert isinstance(run.exception, UserError) and name in str(run.exception)
