"""Every export format keeps one contract: the same logits for any batch, and what its images have to be brought to."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.searches import ended
from nas.base.errors import UserError
from nas.config.training import RetrainConfig
from nas.data.preparation import Preparation
from nas.deploy.export import ALLOWED, FORMATS, Options, run_export
from nas.deploy.inference import evaluate
from nas.deploy.trained import TrainedNetwork, read_trained
from nas.networks.model import build_model
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.result import write_result

Loaded = tuple[Callable[[Tensor], Tensor], dict[str, Any]]
CLASSES = [str(digit) for digit in range(10)]


def load_timm(path: Path) -> Loaded:
    import timm
    from timm.data.config import resolve_model_data_config

    import nas.networks.published  # noqa: F401  registers the architecture

    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    data, described = resolve_model_data_config(model), json.loads((path / "config.json").read_text(encoding="utf-8"))
    facts = {name: data[name] for name in ("mean", "std", "interpolation")} | {"crop": data["crop_pct"]}
    channels, side, _ = data["input_size"]
    return model, facts | {"channels": channels, "resolution": side, "classes": described["label_names"]}


def load_onnx(path: Path) -> Loaded:
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    texts = {name: facts[name] for name in ("key", "interpolation")}
    return (
        lambda images: torch.from_numpy(np.asarray(session.run(None, {"images": images.numpy()})[0])),
        {name: json.loads(value) for name, value in facts.items() if name not in texts} | texts,
    )


def load_torch(path: Path) -> Loaded:
    found = {"opnas.json": ""}
    return torch.export.load(path, extra_files=found).module(), json.loads(found["opnas.json"])


def load_source(path: Path) -> Loaded:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = " ".join((module.__doc__ or "").split())
    assert "images float32 [N, 1, 8, 8]" in said and "is resized (bilinear) to 8 / 0.9 pixels" in said
    facts = {"channels": 1, "resolution": 8, "crop": 0.9, "interpolation": "bilinear"}
    return module.load(), facts | {"classes": module.CLASSES, "mean": module.MEAN, "std": module.STD}


LOADERS = {"timm": load_timm, "onnx": load_onnx, "torch": load_torch, "source": load_source}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainedNetwork:
    """Of digits, grey, with a mean and a deviation of their own."""
    found = Genotype(stem=specs.Stem(kind="small", width=8), stages=((specs.Basic(width=8, operator=specs.ODConv()),),))
    folder = tmp_path_factory.mktemp("forms") / "results" / "retrained" / "retrain" / found.key
    torch.manual_seed(0)
    training = RetrainConfig(dataset="digits", resolution=8, amp="off", augment="none")
    described = {
        **{"key": found.key, "genotype": found.to_dict(), "class_names": CLASSES, "num_classes": 10, "in_channels": 1},
        **{"resolution": 8, "epochs": 5, "seconds": 9.0, "images_per_second": 10.0, "proxy_top1": None, "top1": 0.5},
        "preparation": Preparation((0.3056,), (0.376,), 0.9).to_dict(),
        "training": training.model_dump(mode="json") | {"seed": 3},
    }
    write_result(folder, build_model(found, 10, 1), described)
    return read_trained(folder)


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_computes_the_same_and_says_what_it_needs(trained, tmp_path, form):
    assert set(LOADERS) == set(FORMATS)
    path = run_export(tmp_path, trained, form, tmp_path / "out")
    assert path.is_relative_to(tmp_path / "out") and path.exists()
    run, facts = LOADERS[form](path)
    with torch.no_grad():
        for count in (1, 2, 7):
            torch.testing.assert_close(run(images(count)), trained.model()(images(count)), rtol=1e-4, atol=1e-5)
    facts = {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}
    expected = {"classes": CLASSES, "channels": 1, "resolution": 8, "mean": [0.3056], "std": [0.376], "crop": 0.9}
    assert {name: facts[name] for name in expected} == expected and facts["interpolation"] == "bilinear"


@pytest.mark.parametrize("form", FORMATS)
def test_options_of_another_form_are_refused_in_one_message(trained, tmp_path, form):
    for name, forms in ALLOWED.items():
        if form not in forms:
            given = Options(opset=17) if name == "opset" else replace(Options(), **{name: True})
            with pytest.raises(UserError, match=rf"^--{name.replace('_', '-')}: goes with --format .*, not {form}$"):
                run_export(tmp_path, trained, form, tmp_path / "out", options=given)
    assert not (tmp_path / "out").exists()


def test_other_images_than_those_that_it_was_trained_on_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"--data .*: not used; the network was trained on digits"):
        evaluate(trained, tmp_path, tmp_path / "cache", device="cpu")
    assert evaluate(trained, None, tmp_path / "cache", device="cpu")[0]["num_images"] == 300


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_program_computes_the_same_for_any_batch(trained, monkeypatch, capsys):
    """And so where its numbers are integers, if torchao is there; all forms are scored on the same digits."""
    from torch._inductor import aoti_load_package

    in_integers = find_spec("torchao") is not None
    root = trained.folder.parents[3]
    arguments = ["export", "retrained", "--format", "torch", "--aoti", *(["--int8"] if in_integers else [])]
    code, said, errors = ended(root, monkeypatch, capsys, *arguments)
    assert code == 0, errors
    folder = (root / said.strip()).parent
    run = aoti_load_package(str(folder / "model.aoti.pt2"))
    assert json.loads(run.get_metadata()["opnas.json"])["mean"] == [0.3056]
    with torch.no_grad():
        for count in (1, 2, 7):
            torch.testing.assert_close(run(images(count)), trained.model()(images(count)), rtol=1e-4, atol=1e-5)
    found = json.loads((folder / "forms.json").read_text(encoding="utf-8"))
    assert (found["calibration_images"], found["num_images"]) == (128, 172)
    assert found["float32"]["top1"] == found["float32_aoti"]["top1"] and found["float32_aoti"]["ms_per_image"] > 0
    assert (root / said.strip()).name == ("model.int8.aoti.pt2" if in_integers else "model.aoti.pt2")
    if in_integers:
        assert abs(found["int8"]["top1"] - found["float32"]["top1"]) < 0.1
    else:
        assert "float32_aoti: top1" in errors


def test_what_a_form_is_made_with_is_named_where_it_is_missing(trained, tmp_path):
    from torch._inductor import config

    said = r"--aoti: needs a C\+\+ compiler, such as g\+\+; CXX may name it"
    with config.patch({"cpp.cxx": ("/nowhere/g++",)}), pytest.raises(UserError, match=said):
        run_export(tmp_path, trained, "torch", tmp_path / "out", options=Options(aoti=True))
    if find_spec("torchao") is None:
        with pytest.raises(UserError, match=r"--int8: needs the package torchao with --format torch; pip install tor"):
            run_export(tmp_path, trained, "torch", tmp_path / "out", options=Options(int8=True))
