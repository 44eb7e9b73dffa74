"""Latency by what will serve a network: the same outputs by each runtime, and what each of them needs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import nas
from helpers.searches import ended, write_experiment
from helpers.trainings import operator_net, small_net
from nas.base.errors import MachineError
from nas.config.sections import ObjectiveConfig
from nas.measure import runtimes
from nas.measure.cost import measure
from nas.measure.runtimes import call_of, check_runtime
from nas.networks.fuse import fuse_for_inference
from nas.space import specs
from nas.space.genotype import Genotype

GLOBAL = Genotype(
    stem=specs.Stem(kind="small", width=8),
    stages=((specs.Gated(width=8, operator=specs.GnConv(order=2, filter="global", grid=(8, 5)), layer_scale=1.0),),),
)


def logits(runtime: str, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found = call_of(runtime, model.eval(), images, 1)()
    return torch.from_numpy(np.asarray(found)[0])


@pytest.mark.parametrize("fused", [False, True])
def test_onnx_runtime_computes_what_the_network_does_with_every_operator(fused):
    pytest.importorskip("onnxruntime")
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (operator_net().eval(), nas.build_model(GLOBAL, 10, 1).eval()):
        with torch.no_grad():
            expected = model(images)
        found = logits("onnxruntime", fuse_for_inference(model, "cpu") if fused else model, images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_latency_by_onnx_runtime_says_so_and_leaves_the_network_as_it_was():
    pytest.importorskip("onnxruntime")
    model, asked = operator_net(), {"name": "latency_ms", "runtime": "onnxruntime", "threads": 2, "device": "cpu"}
    assert model.training
    costs = measure(model, (1, 8, 8), [ObjectiveConfig.model_validate(asked)], "cpu")
    assert 0 < costs["latency_ms"] < 100 and model.training
    assert costs["latency"]["runtime"] == "onnxruntime" and costs["latency"]["device"] == "cpu"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_is_timed_after_it_was_compiled():
    images = torch.randn(1, 1, 8, 8)
    model = small_net().eval()
    with torch.inference_mode():
        call = call_of("compile", model, images, 1)
        torch.testing.assert_close(call(), model(images))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_what_a_runtime_needs_is_said_before_anything_is_searched(tmp_path, monkeypatch, capsys):
    for wrong, why in (
        ({"runtime": "onnxruntime"}, "runtime: onnxruntime is measured on a CPU in float32; it goes with device: cpu"),
        ({"runtime": "onnxruntime", "device": "cpu", "dtype": "float16"}, "in float32"),
        ({"runtime": "graph", "device": "cpu"}, "it goes with device: cuda"),
        ({"name": "num_macs", "threads": 2}, "threads: 2 is for latency_ms, num_macs has 1 only"),
    ):
        with pytest.raises(ValueError, match=why):
            ObjectiveConfig.model_validate({"name": "latency_ms"} | wrong)
    with pytest.raises(ValueError, match="runtime = 'tensorrt': allowed are torch, compile, graph, onnxruntime"):
        call_of("tensorrt", small_net(), torch.zeros(1, 3, 8, 8), 1)
    monkeypatch.setattr(runtimes, "ONNX_PACKAGES", ("no_such_package",))
    with pytest.raises(MachineError, match=r"onnxruntime needs no_such_package; pip install 'opnas\[onnx\]'"):
        check_runtime("onnxruntime")
    write_experiment(tmp_path)
    objectives = "objectives=[{name: top1}, {name: latency_ms, device: cpu, runtime: onnxruntime}]"
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", "tiny.yaml", "--set", objectives)
    assert code == 2 and "objectives.1.runtime: onnxruntime needs no_such_package" in errors
    assert not (tmp_path / "results").exists()


def test_profile_measures_with_the_runtime_that_is_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.json").write_text(GLOBAL.to_json())
    options = ("profile", "net.json", "--resolution", "16", "--runtime", "onnxruntime")
    code, said, _ = ended(tmp_path, monkeypatch, capsys, *options, "--json")
    assert code == 0 and json.loads(said)["latency"]["runtime"] == "onnxruntime"
    code, _, errors = ended(tmp_path, monkeypatch, capsys, *options[:5], "graph")
    assert code == 2 and "runtime: graph replays a CUDA graph" in errors
