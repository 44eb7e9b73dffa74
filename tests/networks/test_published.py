"""The published networks: recorded numbers of their blocks and of whole networks, checkpoints, counts."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import timm
import torch
import torchvision

from helpers import golden
from nas.measure.cost import conv_and_linear_macs, num_macs
from nas.networks.model import build_model
from nas.networks.published import PUBLISHED, load_published_checkpoint
from nas.networks.published_checkpoint import CheckpointError
from nas.networks.published_keys import published_keys
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.published_accuracies import published_accuracies
from nas.space.specs import Basic, Bottleneck, Gated, GnConv, InvertedResidual, Involution, ODConv, SCConv

BLOCKS = [case for case in golden.CASES if case.startswith(("scnet", "rednet", "od_", "hornet"))]
NETWORKS = [case.removeprefix("model__") for case in golden.CASES if case.startswith("model__")]
BASELINES = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
    "mobilenetv2_100": torchvision.models.mobilenet_v2,
    "mobilenetv2_075": lambda: torchvision.models.mobilenet_v2(width_mult=0.75),
    "mobilenetv2_050": lambda: torchvision.models.mobilenet_v2(width_mult=0.5),
    "convnext_tiny": lambda: timm.create_model("convnext_tiny"),
}


def _scnet_stage(h):
    blocks = []
    for i in range(h["blocks"]):
        dilation = max(h["dilation"] // 2, 1) if i == 0 else h["dilation"]
        pooled = h["avd"] and h["is_first"] and i == 0
        blocks.append(
            Bottleneck(
                width=4 * h["planes"],
                operator=SCConv(dilation=dilation),
                stride=h["stride"] if i == 0 else 1,
                shortcut="avgpool" if h["avg_down"] else "conv",
                downsample="avgpool" if pooled else "operator",
            )
        )
    return h["inplanes"], blocks, "scnet50_v1d" if h["avg_down"] else "scnet50", "layer1."


def _rednet_stage(h):
    block = Bottleneck(
        width=h["out_channels"], operator=Involution(kernel_size=h["kernel_size"]), stride=h["stride"], zero_init=True
    )
    return h["in_channels"], [block], "rednet26", "backbone.layer1."


def _od_resnet_block(h):
    operator = ODConv(num_kernels=h["kernel_num"])
    block = Basic(width=h["planes"], operator=operator, stride=h["stride"])
    if h["kind"] == "bottleneck":
        pointwise = ODConv(kernel_size=1, num_kernels=h["kernel_num"])
        block = Bottleneck(width=4 * h["planes"], operator=operator, pointwise=pointwise, stride=h["stride"])
    return h["inplanes"], [block], "od_resnet18_1x", "layer1.0."


def _od_mobilenetv2_block(h):
    block = InvertedResidual(
        width=h["oup"],
        operator=ODConv(num_kernels=h["kernel_num"], groups="depthwise"),
        pointwise=ODConv(kernel_size=1, num_kernels=h["kernel_num"]),
        stride=h["stride"],
        expansion=h["expand_ratio"],
    )
    return h["inp"], [block], "od_mobilenetv2_100_1x", "features.1."


def _hornet_block(h):
    scale = 1e-6 if h["layer_scale"] else 0.0
    block = Gated(width=h["dim"], operator=GnConv(order=h["order"], scale=h["scale"]), layer_scale=scale)
    return h["dim"], [block], "hornet_tiny_7x7", "stages.0.0."


STAGES = {
    "scnet_stage": _scnet_stage,
    "rednet_stage": _rednet_stage,
    "od_resnet_block": _od_resnet_block,
    "od_mobilenetv2_block": _od_mobilenetv2_block,
    "hornet_block": _hornet_block,
}


@pytest.mark.parametrize("case", BLOCKS)
def test_recorded_blocks(case):
    data, mode = golden.load(case), golden.CASES[case]["mode"]
    width, blocks, family, prefix = STAGES[golden.CASES[case]["op"]](golden.CASES[case]["hyperparameters"])
    genotype = Genotype(stem=specs.Stem(kind="small", width=width), stages=(tuple(blocks),))
    stage = build_model(genotype).stages[0].double().train(mode == "train")
    state = stage.state_dict()
    keys = {
        key.removeprefix("stages.0."): tuple(part.removeprefix(prefix) for part in parts)
        for key, parts in published_keys(family, genotype, [f"stages.0.{key}" for key in state]).items()
    }
    given = {key.removeprefix("sd:"): value for key, value in data.items() if key.startswith("sd:")}
    assert {part for parts in keys.values() for part in parts} == given.keys()
    own = {
        key: torch.cat([given[p] for p in parts]) if len(state[key].shape) else given[parts[0]]
        for key, parts in keys.items()
    }
    stage.load_state_dict(own)
    x = data["input"].requires_grad_()
    y = stage(x)
    y.backward(data["grad_output"])
    golden.near(y.detach(), data["output"], "output")
    golden.near(x.grad, data["grad_input"], "grad_input")
    for key, grad in golden.in_published_names(keys, golden.parameter_grads(stage)).items():
        golden.near(grad, data[f"grad:{key}"], key)
    after = golden.in_published_names(keys, stage.state_dict())
    for key, value in data.items():
        if key.startswith("sd_after:"):
            golden.near(after[key.removeprefix("sd_after:")], value, key)


def _module(name: str, feature: str) -> str:
    """The module of ours whose output a recorded feature is."""
    if feature in ("maxpool", "downsample_layers.0", "features.0"):
        return "stem"
    if feature == "norm":
        return "head.norm"
    kind, number = re.fullmatch(r"([a-z_.]+?)\.?(\d+)", feature).groups()  # type: ignore[union-attr]
    if kind == "layer":
        return f"stages.{int(number) - 1}"
    if kind == "features":
        blocks = [f"stages.{i}.{j}" for i, stage in enumerate(PUBLISHED[name].stages) for j in range(len(stage))]
        return [*blocks, "conv_head"][int(number) - 1]
    return f"stages.{number}.0.downsample" if kind == "downsample_layers" else f"stages.{number}"


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_networks(name):
    data = golden.load(f"model__{name}")
    state = golden.filled_state_dict(name)
    model = build_model(PUBLISHED[name]).double().eval()
    load_published_checkpoint(model, name, state)
    outputs = {}
    for feature in data["feature_names"]:
        module = model.get_submodule(_module(name, feature))
        module.register_forward_hook(lambda _, __, output, feature=feature: outputs.update({feature: output}))
    x = golden.noise(100000, *golden.CASES[f"model__{name}"]["hyperparameters"]["input"]).requires_grad_()
    logits = model(x)
    logits.backward(golden.noise(100001, 1, 1000))
    golden.near(logits.detach(), data["logits"], "logits")
    for feature, expected in zip(data["feature_names"], data["feature_stats"], strict=True):
        y = outputs[feature].detach()
        actual = torch.stack([y.mean(), y.abs().mean(), y.flatten()[0], y.flatten()[-1]])
        golden.near(actual, expected, feature)
    keys = published_keys(name, model.genotype, list(model.state_dict()))
    grads = golden.in_published_names(keys, golden.parameter_grads(model))
    assert grads.keys() == set(data["grad_param_names"])
    for key, (total, squares) in zip(data["grad_param_names"], data["grad_param_stats"], strict=True):
        bound = 1e-9 * math.sqrt(squares.item() * grads[key].numel()) + 1e-13
        assert abs(grads[key].sum() - total) <= bound, key
        golden.near(grads[key].square().sum(), squares, key)
    assert x.grad is not None
    golden.near(x.grad[0, :, :4, :4], data["grad_input_corner"], "corner")
    golden.near(x.grad.square().sum(), data["grad_input_stats"][1], "grad_input")
    with torch.no_grad():
        golden.near(model.float()(x.float()), data["logits"], "float32", 1e-5)


def test_the_filling_is_the_recorded_one():
    spots = {(0, 0): 0.166982351104, (0, 1): 0.410408140859, (7, 0): 0.093365648063, (100000, 0): 0.863679900533}
    for (row, j), value in spots.items():
        assert abs(golden.uniform(row, 2)[j] - value) < 1e-12


@pytest.mark.parametrize("name", golden.MANIFESTS)
def test_counts_and_keys(name):
    manifest = golden.MANIFESTS[name]
    with torch.device("meta"):
        model = build_model(PUBLISHED[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["num_params"]
    resolution = manifest["resolution"]
    assert conv_and_linear_macs(model, (3, resolution, resolution)) == pytest.approx(
        manifest["conv_and_linear_macs"], rel=1e-6
    )
    stated = published_accuracies()["networks"].get(name)
    assert stated is None or (stated["num_params"], stated["num_macs"]) == (
        manifest["num_params"],
        num_macs(model, (3, 224, 224)),
    )
    state = model.state_dict()
    keys = published_keys(name, model.genotype, list(state))
    shapes = {key: list(tensor.shape) for key, tensor in golden.in_published_names(keys, state).items()}
    assert shapes == dict(manifest["state_dict"])


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_those_of_torchvision_and_timm(name):
    torch.manual_seed(0)
    theirs = BASELINES[name]().eval()
    ours = build_model(PUBLISHED[name]).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():  # statistics and layer scales that a wrong mapping would show
        for key, value in theirs.state_dict().items():
            if key.endswith("running_mean"):
                value.uniform_(-0.1, 0.1)
            elif key.endswith(("running_var", "gamma")):
                value.uniform_(0.5, 1.5)
    load_published_checkpoint(ours, name, theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        golden.near(ours(x), theirs(x), name, 1e-5)


def _state(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {key: torch.rand(shape, generator=generator) for key, shape in golden.MANIFESTS[name]["state_dict"]}


@pytest.mark.parametrize(
    "name", ["rednet26", "scnet50_v1d", "od_resnet18_4x", "od_mobilenetv2_050_4x", "hornet_tiny_gf"]
)
def test_wrappings_and_files(name, tmp_path):
    state = _state(name)
    model = build_model(PUBLISHED[name])
    load_published_checkpoint(model, name, state)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    keys = published_keys(name, model.genotype, list(expected))
    for key, value in golden.in_published_names(keys, expected).items():
        assert torch.equal(value, state[key].to(value.dtype)), key
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    classifier = list(state)[-1].removesuffix("bias")
    openmmlab = {
        key
        if key.startswith("backbone.")
        else f"head.fc.{key.removeprefix(classifier)}"
        if key.startswith(classifier)
        else f"backbone.{key}": value
        for key, value in state.items()
    }
    variants = {
        "state_dict": {"state_dict": state, "meta": {"epoch": 1}},
        "model": {"model": state},
        "module": {f"module.{key}": value for key, value in state.items()},
        "both": {"model": {f"module.{key}": value for key, value in state.items()}},
        "openmmlab": {"state_dict": openmmlab},
        "file": tmp_path / "w.pth",
        "file name": str(tmp_path / "w.pth"),
    }
    for variant, checkpoint in variants.items():
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        load_published_checkpoint(model, name, checkpoint)
        for key, value in model.state_dict().items():
            assert torch.equal(value, expected[key]), (variant, key)


def test_what_does_not_fit_is_listed_and_changes_nothing(tmp_path):
    model = build_model(PUBLISHED["rednet26"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = _state("rednet26")
    state["backbone.layer1.0.conv9.weight"] = state.pop("backbone.layer1.0.conv3.weight")
    state["head.fc.weight"] = torch.zeros(10, 2048)
    state["head.fc.bias"] = "none"  # type: ignore[assignment]
    with pytest.raises(CheckpointError) as mistake:
        load_published_checkpoint(model, "rednet26", state)
    text = str(mistake.value)
    assert "missing (1): backbone.layer1.0.conv3.weight" in text
    assert "unexpected (1): backbone.layer1.0.conv9.weight" in text
    assert "head.fc.weight is [10, 2048], not [1000, 2048]" in text and "head.fc.bias is a str" in text
    wrongs: list[Any] = [
        {},
        {"state_dict": {}},
        _state("rednet38"),
        _state("scnet50"),
        {3: torch.zeros(1)},
        {"model": 3},
    ]
    for wrong in wrongs:
        with pytest.raises(CheckpointError, match=r"missing|unexpected"):
            load_published_checkpoint(model, "rednet26", wrong)
    with pytest.raises(ValueError, match="no network of the family of scnet50 has"):
        load_published_checkpoint(model, "scnet50", _state("scnet50"))
    with pytest.raises(KeyError, match="rednet50"):
        load_published_checkpoint(model, "rednet51", state)
    torch.save({"state_dict": _state("rednet26"), "config": _Config()}, tmp_path / "unsafe.pth")
    (tmp_path / "garbage.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "garbage.safetensors").write_bytes(b"not a checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    for file in ("unsafe.pth", "garbage.pth", "garbage.safetensors", "list.pth", "absent.pth", "."):
        with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / file))):
            load_published_checkpoint(model, "rednet26", tmp_path / file)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class _Config:
    """What a checkpoint must not bring along."""
