"""The core operators reproduce recorded numbers of the published modules: output, gradients, running statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import kernels
from nas.operators import GlobalLocalFilter, GnConv2d, Involution2d, ODConv2d, SelfCalibratedConv2d

FOLDER = Path(__file__).parent / "data" / "golden"
CASES = {case["id"]: case for case in json.loads((FOLDER / "INDEX.json").read_text())}
RELATIVE = 1e-9


def _odconv(h):
    sizes = (h["in_planes"], h["out_planes"], h["kernel_size"], h["stride"], h["padding"], h["dilation"], h["groups"])
    module = ODConv2d(*sizes, num_kernels=h["kernel_num"], reduction=h["reduction"])
    module.temperature = h["temperature"]
    return module


BUILD = {
    "involution_module": lambda h: Involution2d(
        h["channels"], h["kernel_size"], h["stride"], h["group_channels"], h["reduction"]
    ),
    "odconv2d": _odconv,
    "scconv": lambda h: SelfCalibratedConv2d(h["planes"], h["stride"], h["dilation"], h["groups"], h["pooling_r"]),
    "gnconv_7x7": lambda h: GnConv2d(h["dim"], h["order"], h["scale"]),
    "gnconv_gf": lambda h: GnConv2d(h["dim"], h["order"], h["scale"], "global", (h["h"], h["w"])),
    "global_local_filter": lambda h: GlobalLocalFilter(h["dim"], (h["h"], h["w"])),
}


def _load(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fi"}


def _near(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    assert actual.shape == expected.shape, name
    error = (actual - expected).abs().max().item()
    assert error <= RELATIVE * expected.abs().max().item() + 1e-13, f"{name}: {error}"


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] != "involution_op"])
def test_module(name, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    case, data = CASES[name], _load(name)
    module = BUILD[case["op"]](case["hyperparameters"]).double().train(case["mode"] == "train")
    module.load_state_dict({key[3:]: value for key, value in data.items() if key.startswith("sd:")}, strict=True)
    x = data["input"].requires_grad_()
    y = module(x)
    y.backward(data["grad_output"])
    _near(y.detach(), data["output"], "output")
    assert x.grad is not None
    _near(x.grad, data["grad_input"], "grad_input")
    grads = {key[5:]: value for key, value in data.items() if key.startswith("grad:")}
    assert grads.keys() == dict(module.named_parameters()).keys()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None
        _near(parameter.grad, grads[key], key)
    state = module.state_dict()
    for key, value in data.items():
        if key.startswith("sd_after:"):
            _near(state[key.removeprefix("sd_after:")].double(), value.double(), key)


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["op"] == "involution_op"])
def test_involution_function(name, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    h, data = CASES[name]["hyperparameters"], _load(name)
    x, weight = data["input"].requires_grad_(), data["kernel"].requires_grad_()
    y = kernels.involution(x, weight, tuple(h["stride"]), tuple(h["padding"]), tuple(h["dilation"]))
    y.backward(data["grad_output"])
    assert x.grad is not None and weight.grad is not None
    _near(y.detach(), data["output"], "output")
    _near(x.grad, data["grad_input"], "grad_input")
    _near(weight.grad, data["grad_kernel"], "grad_kernel")


def test_every_recorded_case_is_there():
    assert len(CASES) == 41
    assert {case["op"] for case in CASES.values()} == {*BUILD, "involution_op"}
