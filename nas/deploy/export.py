"""run_export: a retrained architecture as a file for others. Adding a format: a function, a line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from nas import kernels
from nas.base.errors import UserError
from nas.deploy.onnx import ExportError, export_onnx
from nas.deploy.retrained import Retrained
from nas.deploy.source import export_source
from nas.deploy.timm_folder import export_timm, upload

__all__ = ["ExportError", "run_export", "to_torch", "upload"]


def run_export(run_dir: Path, retrained: Retrained, form: str, output: Path | None = None) -> Path:
    """Write a retrained architecture to export/<key>/ of its run, or `output`, in a form of FORMATS; returns where.

    Raises UserError for an unknown form and a missing package, ExportError where the file computes something else.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: allowed is one of {', '.join(FORMATS)}")
    folder = output or run_dir / "export" / retrained.described["key"]
    folder.mkdir(parents=True, exist_ok=True)
    return FORMATS[form](retrained, folder)


def to_torch(retrained: Retrained, folder: Path) -> Path:
    """model.pt2: a torch.export program of PyTorch's own operations, for any batch, to be loaded without opnas.

    `torch.export.load("model.pt2").module()(x)`, x [N, in_channels, resolution, resolution], normalised as in training.
    """
    example = torch.zeros(2, retrained.described["in_channels"], retrained.resolution, retrained.resolution)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    program = torch.export.export(retrained.model(), (example,), dynamic_shapes=({0: batch},))
    path = folder / "model.pt2"
    torch.export.save(program.run_decompositions(kernels.decompositions()), path)
    return path


FORMATS: dict[str, Callable[[Retrained, Path], Path]] = {
    "timm": export_timm,
    "onnx": lambda retrained, folder: export_onnx(retrained, folder)[0],
    "torch": to_torch,
    "source": export_source,
}
