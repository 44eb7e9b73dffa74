"""run_export: a retrained architecture as a file for others. Adding a format: a function, a line in FORMATS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import kernels
from nas.errors import UserError
from nas.genotype import Genotype
from nas.model import build_model


@dataclass(frozen=True)
class Retrained:
    """A retrained network with its weights, in eval mode, and the images it was made for."""

    key: str
    model: nn.Module
    in_channels: int
    resolution: int


def run_export(run_dir: Path, key: str, form: str) -> Path:
    """Write the retrained architecture `key` of a run to export/<key>/ in a form of FORMATS; returns the file.

    Raises UserError for an unknown form and where that architecture was not retrained.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: allowed is one of {', '.join(FORMATS)}")
    retrained = load_retrained(run_dir, key)
    folder = run_dir / "export" / retrained.key
    folder.mkdir(parents=True, exist_ok=True)
    return FORMATS[form](retrained, folder)


def load_retrained(run_dir: Path, key: str) -> Retrained:
    """The one retrained architecture of a run whose key begins with `key`; raises UserError where there is not one."""
    finished = {path.parent.name: path for path in sorted(run_dir.glob("retrain/*/config.json"))}
    found = [name for name in finished if name.startswith(key)]
    if len(found) != 1:
        raise UserError(
            f"--key {key!r}: {len(found) or 'no'} retrained architectures of {run_dir.name} begin so; "
            f"retrained are {', '.join(finished) or 'none'} (nas retrain {run_dir.name} --key KEY)"
        )
    described = json.loads(finished[found[0]].read_text())
    model = build_model(Genotype.from_dict(described["genotype"]), described["num_classes"], described["in_channels"])
    model.load_state_dict(load_file(finished[found[0]].with_name("model.safetensors")))
    return Retrained(found[0], model.eval(), described["in_channels"], described["resolution"])


def to_torch(retrained: Retrained, folder: Path) -> Path:
    """model.pt2: a torch.export program of PyTorch's own operations, for any batch, to be loaded without opnas.

    `torch.export.load("model.pt2").module()(x)`, x [N, in_channels, resolution, resolution], normalised as in training.
    """
    example = torch.zeros(2, retrained.in_channels, retrained.resolution, retrained.resolution)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    program = torch.export.export(retrained.model, (example,), dynamic_shapes=({0: batch},))
    path = folder / "model.pt2"
    torch.export.save(program.run_decompositions(kernels.decompositions()), path)
    return path


FORMATS: dict[str, Callable[[Retrained, Path], Path]] = {"torch": to_torch}
