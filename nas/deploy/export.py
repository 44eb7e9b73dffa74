"""run_export: a retrained architecture as a file for others. Adding a format: a function, a line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.base.errors import UserError
from nas.data.loading import loading_explained
from nas.deploy.inference import open_images
from nas.deploy.int8 import quantise
from nas.deploy.measured import Sample
from nas.deploy.onnx import ExportError, export_onnx
from nas.deploy.source import export_source
from nas.deploy.timm_folder import export_timm, upload
from nas.deploy.torch_program import check_forms, export_forms, to_torch
from nas.deploy.trained import TrainedNetwork
from nas.runs.folder import shared_cache

__all__ = ["ExportError", "Options", "run_export", "upload"]


@dataclass(frozen=True)
class Options:
    """What only some forms have, see ALLOWED."""

    opset: int | None = None
    """Version of ONNX's operations; absent: that of torch's exporter."""
    any_size: bool = False
    """Whether height and width are free."""
    int8: bool = False
    """Whether the network is also written in 8-bit integers, and both are measured on the evaluation images."""
    aoti: bool = False
    """Whether it is also compiled for this machine's CPU, and both are measured."""


ALLOWED = {"opset": ("onnx",), "any_size": ("onnx",), "int8": ("onnx", "torch"), "aoti": ("torch",)}


def run_export(
    run_dir: Path,
    trained: TrainedNetwork,
    form: str,
    output: Path | None = None,
    *,
    options: Options = Options(),
    data_dir: Path | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """Write a retrained architecture to export/<key>/ of its run, or `output`, in a form of FORMATS; returns where.

    `data_dir` has the images that int8 and aoti are measured on, `say` is told what came of it. Raises UserError for an
    unknown form, an option of another one and a missing package, ExportError or CompileError where the file computes
    something else.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form!r}: allowed is one of {', '.join(FORMATS)}")
    for name, forms in ALLOWED.items():
        if getattr(options, name) not in (None, False) and form not in forms:
            raise UserError(f"--{name.replace('_', '-')}: goes with --format {' or '.join(forms)}, not {form}")
    if form == "torch":
        check_forms(options.int8, options.aoti)
    folder = output or run_dir / "export" / trained.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    if form == "onnx":
        path, _ = export_onnx(trained, folder, options.opset, options.any_size)
    else:
        path = FORMATS[form](trained, folder)
    if not options.aoti and not options.int8:
        return path
    with loading_explained():
        source = open_images(
            trained, data_dir, shared_cache(run_dir), trained.resolution, 128, torch.device("cpu"), say
        )
        sample = Sample.of(source.validation_batches(), "--int8" if options.int8 else "--aoti")
    if form == "onnx":
        path, found = quantise(path, sample)
    else:
        path, found = export_forms(path, trained, sample, options.int8, options.aoti)
    for name, figures in found.items():
        if isinstance(figures, dict):
            say("{}: top1 {top1:.4f}, {ms_per_image:.3f} ms per image".format(name, **figures))
    say("{calibration_images} images set the ranges, {num_images} others were scored".format(**found))
    return path


FORMATS: dict[str, Callable[[TrainedNetwork, Path], Path]] = {
    "timm": export_timm,
    "onnx": lambda trained, folder: export_onnx(trained, folder)[0],
    "torch": to_torch,
    "source": export_source,
}
