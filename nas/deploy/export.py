"""run_export: a retrained architecture as a file for others. Adding a format: a function, a line in FORMATS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas import kernels
from nas.base.errors import UserError
from nas.data.loading import loading_explained
from nas.deploy.inference import open_images
from nas.deploy.int8 import quantise
from nas.deploy.onnx import ExportError, export_onnx
from nas.deploy.plain_filters import with_plain_filters
from nas.deploy.source import export_source
from nas.deploy.timm_folder import export_timm, upload
from nas.deploy.trained import TrainedNetwork
from nas.runs.folder import shared_cache

FACTS = "opnas.json"
__all__ = ["ExportError", "OnnxOptions", "run_export", "to_torch", "upload"]


@dataclass(frozen=True)
class OnnxOptions:
    """What only the ONNX form has."""

    opset: int | None = None
    """Version of ONNX's operations; absent: that of torch's exporter."""
    any_size: bool = False
    """Whether height and width are free."""
    int8: bool = False
    """Whether the network is also written in 8-bit integers, and both are measured on the evaluation images."""


def run_export(
    run_dir: Path,
    trained: TrainedNetwork,
    form: str,
    output: Path | None = None,
    *,
    onnx: OnnxOptions | None = None,
    data_dir: Path | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """Write a retrained architecture to export/<key>/ of its run, or `output`, in a form of FORMATS; returns where.

    `data_dir` has the images that int8 is measured on, `say` is told what came of it. Raises UserError for an unknown
    form and a missing package, ExportError where the file computes something else.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: allowed is one of {', '.join(FORMATS)}")
    if onnx not in (None, OnnxOptions()) and form != "onnx":
        raise UserError("--opset, --any-size and --int8 go with --format onnx")
    folder = output or run_dir / "export" / trained.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    if form != "onnx" or onnx is None:
        return FORMATS[form](trained, folder)
    path, _ = export_onnx(trained, folder, onnx.opset, onnx.any_size)
    return _quantised(path, trained, data_dir, shared_cache(run_dir), say) if onnx.int8 else path


def _quantised(
    path: Path, trained: TrainedNetwork, data_dir: Path | None, cache_dir: Path, say: Callable[[str], object]
) -> Path:
    """Of an ONNX file the one in 8-bit integers, and what was measured on both."""
    with loading_explained():
        source = open_images(trained, data_dir, cache_dir, trained.resolution, 128, torch.device("cpu"), say)
        target, found = quantise(path, source.validation_batches())
    for name in ("float32", "int8"):
        say("{}: top1 {top1:.4f}, {ms_per_image:.3f} ms per image".format(name, **found[name]))
    say("{calibration_images} images set the ranges, {num_images} others were scored".format(**found))
    return target


def to_torch(trained: TrainedNetwork, folder: Path) -> Path:
    """model.pt2: a torch.export program of PyTorch's own operations, for any batch, to be loaded without opnas.

    `torch.export.load("model.pt2").module()(x)`, x [N, channels, resolution, resolution], normalised as in training:
    with the mean and std that the file FACTS in it has, beside classes, crop and more, see `TrainedNetwork.facts`.
    `torch.export.load("model.pt2", extra_files=found)` reads it into `found = {FACTS: ""}`.
    """
    example = torch.zeros(2, trained.described["in_channels"], trained.resolution, trained.resolution)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    model = with_plain_filters(trained.model(), example)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    path = folder / "model.pt2"
    facts = {FACTS: json.dumps(trained.facts)}
    torch.export.save(program.run_decompositions(kernels.decompositions()), path, extra_files=facts)
    return path


FORMATS: dict[str, Callable[[TrainedNetwork, Path], Path]] = {
    "timm": export_timm,
    "onnx": lambda trained, folder: export_onnx(trained, folder)[0],
    "torch": to_torch,
    "source": export_source,
}
