"""A retrained network leaves as a file that needs no opnas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from searches import nas, write_experiment
from test_trial import CONFIG, place, run, task

from nas.retrained import find_retrained
from nas.run_folder import write_run

WITHOUT_OPNAS = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
given = torch.load(sys.argv[2], weights_only=True)
for x, y in given:
    assert (program(x) - y).abs().max() < 1e-5, x.shape
assert not {"nas", "kernels"} & sys.modules.keys()
"""


def loads_without_opnas(path: Path, model: torch.nn.Module, *shape: int) -> None:
    """In a process that never imports opnas, at batches other than the exported one."""
    with torch.no_grad():
        pairs = [(x, model(x)) for x in (torch.randn(n, *shape) for n in (1, 2, 5))]
    torch.save(pairs, path.with_name("pairs.pt"))
    command = [sys.executable, "-c", WITHOUT_OPNAS, str(path), str(path.with_name("pairs.pt"))]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_export_of_a_retrained_network(tmp_path):
    run_dir = tmp_path / "results" / "tiny"
    write_run(run_dir, write_experiment(tmp_path), CONFIG)
    _, record = run(task(0, "inv3"), place(run_dir))
    key = record.key
    early = nas(tmp_path, "export", "tiny", "--key", key, "--format", "torch", check=False)
    assert early.returncode == 2 and "retrained are none" in early.stderr and "nas retrain tiny" in early.stderr
    settings = [
        part for name in ("epochs=1", "dataset=digits", "resolution=8") for part in ("--set", f"retrain.{name}")
    ]
    nas(tmp_path, "retrain", "tiny", "--key", key, *settings)
    wrong = nas(tmp_path, "export", "tiny", "--key", key, "--format", "tensorrt", check=False)
    assert wrong.returncode == 2 and "--format 'tensorrt': allowed is one of timm, onnx, torch" in wrong.stderr
    done = nas(tmp_path, "export", "tiny", "--key", key[:6], "--format", "torch")
    path = tmp_path / done.stdout.strip()
    assert path == run_dir / "export" / key / "model.pt2"
    retrained = find_retrained(run_dir, key)
    loads_without_opnas(path, retrained.model(), 1, retrained.resolution, retrained.resolution)
    with pytest.raises(ValueError, match=f"retrained are {key}"):
        find_retrained(run_dir, "zz")
