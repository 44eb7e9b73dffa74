"""The operators as layers in the place of nn.Conv2d: what they are told, what they go through, how they come in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nas.published  # noqa: F401  registers the networks
from helpers.pages import ROOT, blocks
from nas.networks.fuse import fuse_for_inference
from nas.operators import (
    Conv,
    GlobalLocalFilter,
    GnConv,
    GnConv2d,
    Involution,
    Involution2d,
    ODConv,
    ODConv2d,
    SCConv,
    SelfCalibratedConv2d,
    annealed,
    build_operator,
    replace,
    set_temperature,
)
from nas.operators.common import BatchNorm2d
from scripts import check_conversions as conversions

COMMITTED = ROOT / "results" / "operators" / "conversions.json"
PAGE = ROOT / "nas" / "operators" / "README.md"
TOGETHER = ("torch.onnx.export, any batch", "torch.compile(fullgraph)")
"""A second each: all layers at once below, and in test_operators.py."""
SLOW = {name for name in conversions.CHECKS if "one batch size" in name or name in TOGETHER}
"""Of what any batch size shows as well."""
FIRST = {"conv": Conv, "involution": Involution, "odconv": ODConv, "scconv": SCConv, "gnconv": GnConv}


class Mine(nn.Module):
    """An operator of somebody else: a mean over 2x2 windows beside a convolution."""

    normalizes = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


@pytest.mark.parametrize("check", [name for name in conversions.CHECKS if name not in SLOW])
def test_what_layers_go_through_is_what_the_table_says(check, monkeypatch):
    """Each works, or says in one sentence what to use instead; an operator of somebody else goes through it too."""
    package, _ = conversions.CHECKS[check]
    if package and not conversions.is_installed(package):
        pytest.skip(f"needs {package}")
    told = json.loads(COMMITTED.read_text(encoding="utf-8"))["results"][check]
    assert {layer: conversions.result(check, layer) for layer in conversions.LAYERS} == told
    if "fuse" not in check or "inference" in check:
        monkeypatch.setitem(conversions.LAYERS, "own", lambda: Mine(8, 12))
        assert conversions.result(check, "own") == "works"


def test_the_table_has_every_layer_and_few_sentences():
    results = json.loads(COMMITTED.read_text(encoding="utf-8"))["results"]
    assert set(results) == set(conversions.CHECKS)
    said = {(check, text) for check, row in results.items() for text in row.values() if text != "works"}
    assert {check for check, _ in said} <= {"fuse_conv_bn_eval", "YOLO's fuse(), layer as its conv"}
    assert all("keep nn.Sequential(layer, norm)" in text and "nas.fuse_for_inference" in text for _, text in said)
    assert conversions.table(results) in PAGE.read_text(encoding="utf-8")


class AllInOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(make() for make in conversions.LAYERS.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1)


def test_all_in_one_network_to_onnx_by_the_plain_call(monkeypatch):
    network = AllInOne()
    monkeypatch.setitem(conversions.LAYERS, "all", lambda: network)
    assert conversions.result("torch.onnx.export, any batch", "all") == "works"


GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": "valid"},
    {"kernel_size": (1, 7), "padding": (0, 3), "dilation": (1, 1)},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
    {"kernel_size": 4, "stride": 3, "padding": 0},
    {"kernel_size": 2, "padding": "same"},
    {"kernel_size": [4, 3], "padding": "same", "dilation": (1, 2), "bias": True},
]


@pytest.mark.parametrize("told", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layer", [Conv, ODConv])
def test_windows_are_those_of_nn_conv2d(layer, told):
    """Shapes and attributes; of one kernel without its attention, the numbers."""
    torch.manual_seed(0)
    like = nn.Conv2d(8, 12, **({"bias": False} | told))
    found, x = layer(8, 12, **told), torch.randn(2, 8, 11, 13)
    assert found(x).shape == like(x).shape
    same = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "padding_mode")
    for name in (*same, "transposed", "output_padding"):
        assert getattr(found, name) == getattr(like, name), name
    if layer is Conv:
        found.load_state_dict(like.state_dict())
        torch.testing.assert_close(found(x), like(x))


def test_involution_without_padding_is_the_inside_of_the_padded_one():
    x = torch.randn(2, 16, 12, 11)
    whole = Involution(16, 8, (3, 5), dilation=2).eval()
    cut = Involution(16, 8, (3, 5), padding=(0, 1), dilation=2).eval()
    cut.load_state_dict(whole.state_dict())
    torch.testing.assert_close(cut(x), whole(x)[:, :, 2:-2, 3:-3])
    assert Involution(16, 8, 3, 2, "valid")(x).shape == nn.Conv2d(16, 8, 3, 2)(x).shape
    assert Involution(16, 16, groups=2).conv2.conv.out_channels == 2 * 49  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FIRST)
def test_every_layer_says_what_it_is_and_takes_device_and_dtype(name):
    layer = FIRST[name](8, 12, stride=2, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}
    assert all(part in repr(layer) for part in ("8, 12, ", "kernel_size=(", "stride=(2, 2)"))
    assert layer(torch.empty(2, 8, 9, 9, device="meta", dtype=torch.bfloat16)).shape == (2, 12, 5, 5)
    assert (layer.in_channels, layer.out_channels, layer.stride) == (8, 12, (2, 2))
    assert getattr(layer, "bias", None) is None or name == "gnconv"


@pytest.mark.parametrize("layer", [Involution, ODConv, SCConv])
def test_norms_inside_are_those_asked_for(layer):
    def groups(channels: int) -> nn.Module:
        return nn.GroupNorm(1, channels)

    def norms(made: nn.Module) -> set[type]:
        return {type(m) for m in made.modules() if "Norm" in type(m).__name__}

    assert norms(layer(8, 12)) == {BatchNorm2d}
    assert norms(layer(8, 12, norm_layer=groups)) == {nn.GroupNorm}
    assert norms(bare := layer(8, 12, norm_layer=None)) == set()
    assert bare(torch.randn(2, 8, 5, 5)).isfinite().all() and bare.normalizes is False
    with pytest.raises(ValueError, match=r"norm_layer = .*allowed is what makes a norm"):
        layer(8, 12, norm_layer=lambda channels: 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv(8, 12, groups=3), "groups = 3: allowed is a divisor of 8 and 12"),
        (lambda: Conv(8, 0), "out_channels = 0: allowed is a whole number, 1 or more"),
        (lambda: Conv(8, 12, (3, 3, 3)), "kernel_size = .3, 3, 3.: allowed is a whole number from 1 or two"),
        (lambda: Conv(8, 12, 3, 0), "stride = 0: allowed"),
        (
            lambda: Conv(8, 12, 3, padding="full"),  # pyright: ignore[reportArgumentType]
            "padding = 'full': allowed is 'same', 'valid'",
        ),
        (lambda: ODConv(8, 12, 3, True), "stride = True: allowed"),
        (lambda: ODConv(8, 12, num_kernels=0), "num_kernels = 0"),
        (lambda: ODConv(8, 12, reduction=2), "reduction = 2: allowed is a number above 0 and at most 1"),
        (lambda: ODConv2d(8, 12, 3, padding=-1), "padding = -1: allowed is a whole number from 0"),
        (lambda: Involution(8, 12, 4), "kernel_size = 4: allowed is an odd number"),
        (lambda: Involution2d(32, 65), r"kernel_size = 65: .*Involution\(in_channels, out_channels"),
        (lambda: Involution(8, 12, 3, padding=2), "padding = 2: allowed is 'same', 'valid' or up to .1, 1."),
        (lambda: Involution(8, 12, groups=3), "groups = 3: allowed is a divisor of 8"),
        (lambda: SCConv(8, 12, 3, padding=0), "padding = 0: allowed is 'same'"),
        (lambda: SCConv(8, 12, bias=True), "bias = True: allowed is False: its norms add one"),
        (lambda: SelfCalibratedConv2d(32, 32, 1, 1, 1), r"stride = 32: .*channels, stride, dilation"),
        (lambda: GnConv(8, 12, dilation=2), "dilation = .2, 2.: allowed is .1, 1."),
        (lambda: GnConv(8, 12, groups=2), "groups = 2: allowed is 1"),
        (lambda: ODConv(8, 12, reduction="a"), "reduction = 'a': allowed is a number above 0 and at most 1"),  # type: ignore
        (lambda: GnConv(8, 12, scale=float("nan")), "scale = nan: allowed is a number$"),
        (lambda: GnConv2d(32, 64), r"order = 64: allowed is up to 8; .*GnConv\(in_channels, out_channels\)"),
        (lambda: GnConv(8, 8, filter="global", grid=(0, 3)), r"grid = \(0, 3\): allowed is a whole number from 1"),
        (lambda: GlobalLocalFilter(8, 7.5), "grid = 7.5: allowed"),  # type: ignore
        (lambda: set_temperature(nn.Identity(), 0), "temperature = 0: allowed is a number above 0"),
        (lambda: set_temperature(nn.Identity(), float("inf")), "temperature = inf: allowed is a number above 0"),
        (lambda: Involution(8, 12)(torch.rand(2, 3)), r"input has shape \[2, 3\]: allowed is \[N, C, H, W\] or"),
        (lambda: SCConv(8, 12)(torch.rand(2, 3, 5, 5)), r"input has shape \[2, 3, 5, 5\]: allowed are 8 channels"),
        (lambda: GnConv.from_conv(nn.Conv2d(8, 8, 3)), "padding = .0, 0.: allowed is 'same'"),
        (lambda: Conv.from_conv(nn.Conv2d(8, 8, 3, padding_mode="reflect")), "pads with zeros"),
        (lambda: replace(nn.Sequential(), nn.Linear, "conv"), "kind = .*Linear.*allowed is torch.nn.Conv2d"),
        (lambda: replace(nn.Conv2d(8, 8, 3), nn.Conv2d, "conv"), "allowed is a module around"),
        (lambda: replace(nn.Sequential(nn.Conv2d(8, 8, 3)), nn.Conv2d, "dconv"), "operator = 'dconv'.*involution"),
    ],
)
def test_wrong_use_is_said(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_ordinary_convolutions_are_of_torchs_own_class():
    """For hooks by exact class: thop and ultralytics count them by it."""
    assert type(Conv(8, 12, 3, 2, groups=4, bias=True)) is nn.Conv2d
    assert type(build_operator("conv", 8, 12)) is nn.Conv2d
    assert type(Conv(8, 8, groups=8)) is not nn.Conv2d
    network = timm.create_model("opnas_scnet50")
    assert {type(m) for m in network.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    torch.manual_seed(0)
    assert Conv(64, 64).weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_temperature_travels_in_the_state_dict():
    model = nn.Sequential(ODConv(8, 8), nn.ReLU(), ODConv(8, 8, groups="depthwise"))
    published = model.state_dict()
    assert set_temperature(model, annealed(5, 10)) == 2
    state = model.state_dict()
    assert {*state} - {*published} == {"0.temperature", "2.temperature"}
    resumed = nn.Sequential(ODConv(8, 8), nn.ReLU(), ODConv(8, 8, groups="depthwise"))
    resumed.load_state_dict(state)
    assert [layer.temperature for layer in resumed if isinstance(layer, ODConv)] == [15.5, 15.5]
    assert set(state) == set(resumed.state_dict())
    resumed.load_state_dict(published)  # which has nothing to say
    assert resumed[0].temperature == 15.5
    assert [annealed(t, 4) for t in range(6)] == [30.0, 22.75, 15.5, 8.25, 1.0, 1.0]


def test_timms_channels_last():
    network = timm.create_model("opnas_od_mobilenetv2_050_1x").eval()
    x = torch.randn(1, 3, 32, 32)
    expected = network(x)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["involution", "odconv", "gnconv"])
def test_a_bias_is_folded_with_the_norm_behind(name):
    for widths in ((8, 8), (8, 16)):
        layer = FIRST[name](*widths, bias=True)
        layer.bias.normal_()
        network = nn.Sequential(layer, nn.BatchNorm2d(widths[1])).eval()
        network[1].running_mean.normal_()  # type: ignore[operator, union-attr]
        x = torch.randn(2, 8, 5, 5)
        torch.testing.assert_close(fuse_for_inference(network)(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["conv", "odconv"])
@pytest.mark.parametrize("told", [{}, {"stride": 2, "bias": False}, {"groups": 4, "dilation": 2, "padding": "same"}])
def test_a_layer_starts_as_the_convolution_that_it_replaces(name, told):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 24, 3, **told).double()).eval()
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    expected = model(x)
    assert replace(model, nn.Conv2d, name) == ["0"]
    assert not model[0].training
    assert (model(x) - expected).norm() < 0.15 * expected.norm()


def test_replace_takes_what_where_chooses_or_nothing():
    model: Any = timm.create_model("resnet18", num_classes=4, channels=(8, 16, 24, 32))
    shared = model.layer1[1].conv1
    model.layer1[1].conv2 = shared
    with pytest.raises(ValueError, match=r"conv1: kernel_size = \(7, 7\): allowed is 3.*; `where` chooses"):
        replace(model, nn.Conv2d, "scconv")
    assert model.layer1[1].conv1 is shared

    def where(name: str, conv: nn.Conv2d) -> bool:
        return conv.kernel_size == (3, 3) and name.startswith(("layer1", "layer2"))

    names = replace(model, nn.Conv2d, "scconv", where, pooling=2)
    assert len(names) == 8 and model.layer1[1].conv1 is model.layer1[1].conv2
    assert isinstance(model.layer2[0].conv1, SCConv) and model.layer2[0].conv1.stride == (2, 2)
    assert not [name for name in replace(model, nn.Conv2d, "involution") if name.startswith(tuple(names))]
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_replace_by_an_operator_of_somebody_else():
    model = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    assert replace(model, nn.Conv2d, f"{__name__}:Mine") == ["0"]
    assert isinstance(model[0], Mine) and model(torch.randn(2, 8, 9, 9)).shape == (2, 16, 5, 5)


def test_published_networks_say_where_their_weights_are():
    for name in timm.list_models("opnas_*"):
        with pytest.raises(
            RuntimeError, match=rf"{name}: no weights are hosted; take them from .*pretrained_cfg_overlay"
        ):
            timm.create_model(name, pretrained=True)
    assert timm.list_models("opnas_*", pretrained=True) == []


EXTRAS = ("ray", "pyarrow", "optuna", "cmaes", "scipy", "sklearn", "pandas", "matplotlib", "plotly", "starlette")


def test_without_extras_layers_and_networks_work_and_verbs_name_what_they_need(tmp_path):
    """A folder of links to all installed packages but those that only extras bring."""
    for folder in map(Path, {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for entry in folder.iterdir():
            if not entry.name.lower().startswith((*EXTRAS, "uvicorn", "scikit", "__editable__")):
                (tmp_path / entry.name).symlink_to(entry)
    lines = [
        "import sys, timm, torch, nas, nas.published",
        "from nas.operators import OPERATORS, ODConv",
        "timm.create_model('opnas_od_mobilenetv2_050_1x', num_classes=2).eval()(torch.rand(1, 3, 32, 32))",
        "for name in ('search', 'dashboard', 'SurrogateSampler'):",
        "    try: found = getattr(nas, name); name != 'search' or found('search_spaces/quickstart.yaml')",
        "    except nas.UserError as error: print(error)",
        "from nas import cli",
        "sys.argv = ['nas', 'search', 'search_spaces/quickstart.yaml', '--name', 'never']",
        "cli.main()",
    ]
    command = [sys.executable, "-S", "-c", "\n".join(lines)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = [*done.stdout.splitlines(), done.stderr.strip()]
    assert done.returncode == 2, said
    sentence = re.compile(r"(nas: )?needs the package \w+: pip install 'opnas\[\w+\]', or 'opnas\[all\]'")
    assert len(said) == 4 and all(map(sentence.fullmatch, said)), said


def test_a_layer_by_itself_imports_torch_and_little_else():
    """What a search, its files and its page need, triton and ONNX are not imported, nor is what counts FLOPs."""
    lines = [
        "import torch, sys, os",
        "before, began = set(sys.modules), sum(os.times()[:2])",
        "from nas.operators import Involution",
        "took = sum(os.times()[:2]) - began",
        "Involution(8, 8)(torch.rand(1, 8, 5, 5))",
        "print(took, *sorted({name.partition('.')[0] for name in set(sys.modules) - before}))",
        "print(*[name for name in ('torch.onnx', 'torch.utils.flop_counter', 'triton') if name in sys.modules])",
        "from torch.utils.flop_counter import FlopCounterMode",
        "with FlopCounterMode(display=False) as counter: Involution(32, 32)(torch.rand(1, 32, 14, 14))",
        "print(counter.get_total_flops())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    took, *modules = first.split()
    assert not {"pydantic", "ray", "optuna", "timm", "torchvision", "yaml", "click", "pandas", "plotly"} & {*modules}
    assert float(took) < 0.5 and not second  # CPU seconds; 0.08 measured
    assert int(third) == 2 * 196 * (32 * 8 + 8 * 49 * 2 + 49 * 32)


def test_the_page_walks_from_a_layer_to_a_trained_unet_and_a_detector(capsys):
    """Its examples run as they stand."""
    for text in blocks(PAGE, "python"):
        if "ultralytics" not in text:
            exec(compile(text, str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert "ODConv 0." in said and "GnConv 0." in said and "layers replaced" in said


def test_the_page_trains_a_yolo_which_goes_on_from_its_file(tmp_path, monkeypatch):
    """Where ultralytics is installed: ten steps by its trainer, then what it prints, folds, predicts and exports."""
    if not conversions.is_installed("ultralytics"):
        pytest.skip("needs ultralytics")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics import YOLO  # pyright: ignore
    from ultralytics.utils.torch_utils import get_flops  # pyright: ignore

    data = images_with_bars(tmp_path)
    (text,) = [text for text in blocks(PAGE, "python") if "ultralytics" in text]
    text = text.replace('data="data.yaml"', f'data="{data}", project="{tmp_path}", name="run"')
    exec(compile(text, str(PAGE), "exec"), scope := {})
    trainer = scope["yolo"].trainer
    assert trainer.epochs * len(trainer.train_loader) == 10
    yolo = YOLO(tmp_path / "run" / "weights" / "last.pt")
    model, x = yolo.model.float().eval(), torch.rand(1, 3, 64, 64)
    pairs = [[*map(type, module)] for module in model.modules() if type(module) is nn.Sequential and len(module) == 2]
    assert pairs.count([ODConv, nn.BatchNorm2d]) == 20  # each with the norm of its block
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, 640, 640))
    assert counter.get_total_flops() <= get_flops(model) * 1e9 < 1.03 * counter.get_total_flops()  # norms are counted
    with torch.no_grad():
        expected = model(x)[0]
        assert not model.is_fused() and model.fuse(verbose=False).is_fused()
        torch.testing.assert_close(model(x)[0], expected, rtol=1e-3, atol=1e-3)
    assert yolo.predict(tmp_path / "images" / "0.png", imgsz=64, device="cpu")[0].boxes is not None
    assert Path(yolo.export(format="torchscript", imgsz=64)).exists()


def images_with_bars(folder: Path) -> Path:
    """20 images with a box each, in the form of ultralytics; returns the file that names them."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(20):
        pixels, width = torch.randint(0, 90, (64, 64, 3), dtype=torch.uint8), (16 + i) / 64
        pixels[16:48, 8 : 24 + i] = 220
        Image.fromarray(pixels.numpy()).save(folder / "images" / f"{i}.png")
        box = f"0 {8 / 64 + width / 2} 0.5 {width} 0.5\n"
        (folder / "labels" / f"{i}.txt").write_text(box, encoding="utf-8")
    told = folder / "data.yaml"
    told.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [bar]\n", encoding="utf-8")
    return told
