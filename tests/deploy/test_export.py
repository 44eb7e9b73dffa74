"""A retrained network handed on: timm's layout, ONNX, one Python file, evaluation and prediction; all operators."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers.searches import ended
from nas.base.errors import UserError
from nas.config.training import RetrainConfig
from nas.data.preparation import Preparation
from nas.deploy.inference import evaluate, predict, to_csv
from nas.deploy.int8 import quantise
from nas.deploy.measured import Sample
from nas.deploy.onnx import export_onnx
from nas.deploy.source import export_source
from nas.deploy.timm_folder import example_images, export_timm, upload
from nas.deploy.trained import TrainedNetwork, find_retrained, read_trained
from nas.networks.model import build_model
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.result import write_result

CLASSES = ["bright", "dark"]
WITHOUT_OPNAS = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
given = torch.load(sys.argv[2], weights_only=True)
for x, y in given:
    assert (program(x) - y).abs().max() < 1e-5, x.shape
assert (program.to(torch.bfloat16)(x.bfloat16()).float() - y).abs().max() < 0.1
assert program.to("meta")(x.bfloat16().to("meta")).shape == y.shape
assert not {"nas", "kernels"} & sys.modules.keys()
"""
OPERATORS = (
    specs.Conv(kernel_size=3),
    specs.ODConv(),
    specs.Involution(kernel_size=3),
    specs.SCConv(pooling=2),
)


def genotype() -> Genotype:
    """All operators, each once, the global filter among them."""
    blocks = tuple(specs.Bottleneck(width=16, operator=operator) for operator in OPERATORS)
    filters = specs.GnConv(order=2, filter="global", grid=(8, 5)), specs.GnConv(order=3)
    gated = tuple(specs.Gated(width=16, operator=operator, layer_scale=1.0) for operator in filters)
    return Genotype(stem=specs.Stem(kind="small", width=16), stages=(gated, blocks))


@pytest.fixture(scope="module")
def retrained(tmp_path_factory) -> TrainedNetwork:
    """What a retraining leaves, with weights that are none of the start values."""
    folder = tmp_path_factory.mktemp("run") / "results" / "retrained" / "retrain" / genotype().key
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(genotype(), 2, 3)
    for tensor in model.parameters():
        tensor.data.add_(0.05 * torch.randn_like(tensor))
    save_file(model.state_dict(), folder / "model.safetensors")
    described = {
        "key": genotype().key,
        "genotype": genotype().to_dict(),
        "training": RetrainConfig(resolution=16, recipe="a3").model_dump(mode="json") | {"seed": 3},
        "class_names": CLASSES,
        **{"num_classes": 2, "in_channels": 3, "resolution": 16, "epochs": 5, "seconds": 9.0},
        **{"top1": 0.75, "top5": 1.0, "proxy_top1": 0.5, "images_per_second": 10.0},
    }
    (folder / "config.json").write_text(json.dumps(described))
    return read_trained(folder)


def logits(model: torch.nn.Module, count: int, retrained: TrainedNetwork) -> torch.Tensor:
    with torch.no_grad():
        return model(example_images(retrained, count))


def test_timm_builds_the_exported_folder(retrained, tmp_path):
    """Equal logits, class count, preparation of images; and the card has where it comes from."""
    import timm
    from timm.data.config import resolve_model_data_config

    import nas.networks.published  # registers the architecture  # noqa: F401

    export_timm(retrained, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(logits(model, 2, retrained), logits(retrained.model(), 2, retrained))
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, 16, 16) and data["crop_pct"] == 0.95 and data["interpolation"] == "bicubic"
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).num_classes == 7
    card = (tmp_path / "README.md").read_text()
    for fact in (
        genotype().key,
        "0.7500",
        "| recipe | a3 |",
        "| seed | 3 |",
        "involution",
        "torch ",
        "pip install opnas",
    ):
        assert fact in card, fact


def test_onnx_computes_the_same(retrained, tmp_path):
    """Checked in ONNX Runtime with one image and with four; no operation of ours is left."""
    path, difference = export_onnx(retrained, tmp_path)
    import onnx

    assert difference < 1e-4
    assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}


def test_the_torch_program_needs_torch_alone(retrained, tmp_path, monkeypatch, capsys):
    """By the command: in a process that never imports opnas, at batches other than the exported one."""
    root = retrained.folder.parents[3]
    arguments = ("export", "retrained", "--key", genotype().key[:6], "--format")
    code, said, _ = ended(root, monkeypatch, capsys, *arguments, "torch")
    path = root / said.strip()
    assert code == 0 and path == retrained.folder.parents[1] / "export" / genotype().key / "model.pt2"
    pairs = [(example_images(retrained, n), logits(retrained.model(), n, retrained)) for n in (1, 2, 5)]
    torch.save(pairs, tmp_path / "pairs.pt")
    command = [sys.executable, "-c", WITHOUT_OPNAS, str(path), str(tmp_path / "pairs.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, _, errors = ended(root, monkeypatch, capsys, *arguments, "tensorrt")
    assert code == 2 and "--format 'tensorrt': allowed is one of timm, onnx, torch" in errors


def test_the_python_file_needs_torch_alone(retrained, tmp_path):
    path = export_source(retrained, tmp_path)
    program = (
        "import sys, torch, importlib.util as u\n"
        f"s = u.spec_from_file_location('m', {str(path)!r}); m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "assert not {'nas', 'kernels', 'timm'} & set(sys.modules)\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        "assert m.load().to('meta')(x.to('meta')).shape == (5, 2)\n"
        "assert (m.load().bfloat16()(x.bfloat16()) - m.load()(x)).abs().max() < 0.1\n"
        "assert m.load().double()(x.double()).dtype == torch.float64\n"
        f"torch.save([m.load()(torch.load({str(tmp_path / 'x.pt')!r})), m.CLASSES], {str(tmp_path / 'y.pt')!r})"
    )
    torch.save(example_images(retrained, 5), tmp_path / "x.pt")
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
    found, names = torch.load(tmp_path / "y.pt", weights_only=True)
    assert torch.allclose(found, logits(retrained.model(), 5, retrained), rtol=1e-4, atol=1e-5) and names == CLASSES
    assert importlib.util.find_spec("nas") is not None


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> TrainedNetwork:
    """Of grey images with a mean and a deviation of their own, scored in bfloat16; one convolution."""
    block = specs.Basic(width=8, operator=specs.Conv())
    found = Genotype(stem=specs.Stem(kind="small", width=8), stages=((block,),))
    folder = tmp_path_factory.mktemp("grey") / "retrain" / found.key
    described = {
        **{"key": found.key, "genotype": found.to_dict(), "class_names": CLASSES, "num_classes": 2, "in_channels": 1},
        **{"resolution": 8, "epochs": 5, "seconds": 9.0, "images_per_second": 10.0, "proxy_top1": None},
        **{"dtype": "bfloat16", "top1": 0.75, "top1_float32": 0.76, "top5": 1.0, "top5_float32": 1.0},
        "preparation": Preparation((0.3056,), (0.376,)).to_dict(),
        "training": RetrainConfig(dataset="digits", resolution=8).model_dump(mode="json") | {"seed": 3},
    }
    write_result(folder, build_model(found, 2, 1), described)
    return read_trained(folder)


def test_every_form_has_the_mean_and_deviation_of_its_images(grey, tmp_path):
    """And the card both accuracies, of the number format that the training scored in and of float32."""
    import onnx

    export_timm(grey, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"], config["input_size"]) == ([0.3056], [0.376], [1, 8, 8])
    card = (tmp_path / "README.md").read_text()
    assert "mean 0.3056, std 0.376" in card and "0.7500 in bfloat16 as trained, 0.7600 in float32" in card
    assert "MEAN, STD = (0.3056,), (0.376,)" in export_source(grey, tmp_path).read_text()
    path, _ = export_onnx(grey, tmp_path, any_size=True)
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (facts["mean"], facts["std"], facts["resolution"]) == ("[0.3056]", "[0.376]", "8")
    assert json.loads(facts["classes"]) == CLASSES
    # a timm export and a source file in one folder do not take each other's weights
    assert set(load_file(tmp_path / "model.safetensors")) == set(grey.model().state_dict())


def test_integers_of_eight_bits_are_measured_beside_the_network(grey, tmp_path, monkeypatch):
    """On images of which each class has one look: both forms tell them apart, as the figures and the file say."""
    path, _ = export_onnx(grey, tmp_path)
    images = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = grey.model()(images).argmax(1)
    sample = Sample.of(zip(images.split(64), labels.split(64), strict=True), "--int8")
    target, found = quantise(path, sample)
    assert found["calibration_images"] == 128 and found["num_images"] == 172
    assert found["float32"]["top1"] == 1 and found["int8"]["top1"] > 0.9
    assert target.stat().st_size and json.loads((tmp_path / "int8.json").read_text()) == found
    with pytest.raises(UserError, match="--int8: needs 256 images or more, there are 64"):
        Sample.of([(images[:64], labels[:64])], "--int8")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        for name, level in zip(CLASSES, (220, 30), strict=True):
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (20, 24), (level + number, level, level)).save(folder / part / name / f"{number}.png")
    return folder


def test_evaluate_and_predict_agree(retrained, images, tmp_path):
    """The accuracy is the share of images whose likeliest class is theirs; at another resolution as well."""
    small, large = evaluate(retrained, images, tmp_path, resolutions=(16, 24), batch_size=4, device="cpu")
    assert small["num_images"] == large["num_images"] == 6 and (small["resolution"], large["resolution"]) == (16, 24)
    files = sorted((images / "val").rglob("*.png"))
    found = predict(retrained, files, top=9, device="cpu")
    right = [entry["guesses"][0]["class"] == path.parent.name for entry, path in zip(found, files, strict=True)]
    assert small["top1"] == pytest.approx(sum(right) / 6) and small["top5"] == 1
    assert all(sum(guess["probability"] for guess in entry["guesses"]) == pytest.approx(1) for entry in found)


def test_mistakes_are_said(retrained, images, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--key 'zz': no retrained .* there are " + genotype().key):
        find_retrained(retrained.folder.parent.parent, "zz")
    with pytest.raises(UserError, match="not the description of a retraining"):
        read_trained(tmp_path)
    (images / "train" / "extra").mkdir(exist_ok=True)
    (images / "val" / "extra").mkdir(exist_ok=True)
    for part in ("train", "val"):
        Image.new("RGB", (8, 8)).save(images / part / "extra" / "0.png")
    with pytest.raises(UserError, match=r"1 classes are not among the 2 trained ones \(bright, dark\): extra"):
        evaluate(retrained, images, tmp_path, device="cpu")
    assert "unreadable image" in predict(retrained, [tmp_path / "absent.png"])[0]["error"]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((retrained.folder / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a checkpoint that can be read safely"):
        read_trained(broken).model()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no Hugging Face token"):
        upload(tmp_path, "me/net")


def test_predictions_are_a_table_with_as_many_columns_as_the_longest_needs():
    guesses = [{"class": "x", "probability": 0.75}, {"class": "y", "probability": 0.25}]
    found = [{"image": "a", "guesses": guesses}, {"image": "b", "error": "bad"}, {"image": "c", "guesses": guesses[:1]}]
    head = "image,class_1,probability_1,class_2,probability_2,error"
    assert to_csv([]) == "image,error\n"
    assert to_csv(found).splitlines() == [head, "a,x,0.750000,y,0.250000,", "b,,,,,bad", "c,x,0.750000,,,"]


def test_a_detector_trains_on_the_backbone(retrained):
    """One step of torchvision's RetinaNet on the network's last map: a finite loss, gradients in the stem."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.out_channels = retrained.model().train(), 16

        def forward(self, x):
            return self.network.forward_features(x)

    anchors = AnchorGenerator(sizes=((16,),), aspect_ratios=((0.5, 1.0, 2.0),))
    detector = RetinaNet(Backbone(), num_classes=3, anchor_generator=anchors, min_size=32, max_size=32)
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "labels": torch.tensor([1])} for _ in range(2)]
    losses = detector([torch.rand(3, 32, 32) for _ in targets], targets)
    loss = sum(losses.values())
    assert isinstance(loss, torch.Tensor) and loss.isfinite()
    loss.backward()
    stem = next(detector.backbone.network.stem.parameters())  # type: ignore[union-attr]
    assert stem.grad is not None and stem.grad.abs().sum() > 0
