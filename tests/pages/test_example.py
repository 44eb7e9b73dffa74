"""README's worked example, followed to the letter: a folder of images, the YAML, each command in its order.

Only what makes it long is shortened: one training, one epoch, few images.
"""

from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest

import nas
from helpers.pages import README, ROOT, blocks, commands
from helpers.searches import ended, environment
from helpers.searches import nas as searched

SHORTER = {
    "search": ["--set", "search.num_trials=1", "--set", "proxy.epochs=1", "--set", "proxy.max_images_per_class=8"],
    "retrain": ["--set", "retrain.epochs=1"],
}
SAYS = {
    "prepare": "1,300 train, 400 val images of 10 classes, 0 unreadable",
    "evaluate": "(400 images)",
    "predict": "photos/val/seven/007.png: ",
    "export": "results/photos/export/",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the example's images and its file."""
    folder = tmp_path_factory.mktemp("example")
    maker = ROOT / "scripts" / "example_images.py"
    subprocess.run([sys.executable, str(maker), "photos"], cwd=folder, check=True, env=environment())
    (experiment,) = [text for text in blocks(README, "yaml") if "photos" in text]
    (folder / "photos.yaml").write_text(experiment, encoding="utf-8")
    return folder


def test_example_from_images_to_onnx(folder, monkeypatch, capsys):
    lines = [line.split() for line in commands(README) if line.startswith("nas ")]
    verbs = [words[1] for words in lines]
    assert verbs == ["prepare", "search", "search", "retrain", "evaluate", "predict", "export"]
    for _, verb, *words in lines:
        if "KEY" in words:
            words[words.index("KEY")] = nas.Run(folder / "results/photos").report()["front"][0]["key"]
        shorter = [] if "--dry-run" in words else SHORTER.get(verb, [])
        if verb == "search" and shorter:  # a process that has used Ray ends with its search
            searched(folder, verb, *words, *shorter)
            continue
        code, said, errors = ended(folder, monkeypatch, capsys, verb, *words, *shorter)
        assert code == 0, errors
        assert SAYS.get(verb, "") in said
    (exported,) = (folder / "results/photos/export").rglob("*.onnx")
    assert onnxruntime.InferenceSession(str(exported)).get_outputs()[0].shape[-1] == 10
