"""Export as a torch.export program; for CPUs also in 8-bit integers (torchao) and compiled (AOTInductor)."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from nas import kernels
from nas.base.errors import Failed, UserError
from nas.deploy.measured import Form, Sample
from nas.deploy.trained import TrainedNetwork
from nas.networks.plain_filters import with_plain_filters

FACTS = "opnas.json"
TOLERANCE = 1e-3


class CompileError(Failed):
    """What was compiled does not compute what the program does."""


def to_torch(trained: TrainedNetwork, folder: Path) -> Path:
    """model.pt2: a torch.export program of PyTorch's own operations, for any batch, to be loaded without opnas.

    `torch.export.load("model.pt2").module()(x)`, x [N, channels, resolution, resolution], normalised as in training:
    with the mean and std that the file FACTS in it has, beside classes, crop and more, see `TrainedNetwork.facts`.
    `torch.export.load("model.pt2", extra_files=found)` reads it into `found = {FACTS: ""}`.
    """
    example = torch.zeros(2, trained.num_channels, trained.resolution, trained.resolution)
    model = with_plain_filters(trained.model(), example)
    program = _for_any_batch(model, example).run_decompositions(kernels.decompositions())
    return _saved(program, trained, folder / "model.pt2")


def check_forms(int8: bool, compiled: bool) -> None:
    """Raise UserError where what a form is made with is missing."""
    if int8 and find_spec("torchao") is None:
        raise UserError("--int8: needs the package torchao with --format torch; pip install torchao")
    if compiled:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise UserError("--aoti: needs a C++ compiler, such as g++; CXX may name it") from None


def export_forms(
    path: Path, trained: TrainedNetwork, sample: Sample, int8: bool, compiled: bool
) -> tuple[Path, dict[str, Any]]:
    """A program as `to_torch` wrote it, for CPUs in 8-bit integers, compiled, or both, beside it; returns the last file
    and what was measured.

    model.int8.pt2 has integers for convolutions and linear layers, with the ranges of the calibration images; it loads
    where torchao is imported. model.aoti.pt2 and model.int8.aoti.pt2 are machine code for this kind of processor and
    this version of torch: `torch._inductor.aoti_load_package("model.aoti.pt2")(x)`; they have the facts as metadata.
    forms.json has accuracy and time of each on the same images. Raises CompileError where the code computes something
    else, for one image or several.
    """
    folder, programs = path.parent, {"float32": torch.export.load(path)}
    if int8:
        programs["int8"] = _in_integers(programs["float32"], sample.calibration)
        path = _saved(programs["int8"], trained, folder / "model.int8.pt2")
    forms: dict[str, Form] = {}
    for name, program in programs.items():
        forms[name] = program.module()
        if compiled:
            path = folder / ("model.aoti.pt2" if name == "float32" else "model.int8.aoti.pt2")
            forms[f"{name}_aoti"] = _compiled(program, trained, path, forms[name], sample.images[:5])
    return path, sample.write(folder / "forms.json", forms)


def _for_any_batch(model: torch.nn.Module, example: torch.Tensor) -> ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))


def _saved(program: ExportedProgram, trained: TrainedNetwork, path: Path) -> Path:
    torch.export.save(program, path, extra_files={FACTS: json.dumps(trained.facts)})
    return path


def _in_integers(program: ExportedProgram, images: torch.Tensor) -> ExportedProgram:
    """Symmetric weights per channel, activations per tensor, as Inductor has kernels for on x86."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
            convert_pt2e,
            prepare_pt2e,
        )
        from torchao.quantization.pt2e.quantizer import (  # pyright: ignore[reportMissingImports]
            x86_inductor_quantizer as x86,
        )

        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(program.module(check_guards=False), quantizer)
        with torch.no_grad():
            for part in images.split(32):
                prepared(part)
        return _for_any_batch(convert_pt2e(prepared), images[:2])


def _compiled(
    program: ExportedProgram, trained: TrainedNetwork, path: Path, expected: Form, images: torch.Tensor
) -> Form:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA
    configs = {"freezing": True, "aot_inductor.metadata": {FACTS: json.dumps(trained.facts)}}
    form = aoti_load_package(aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs))
    for given in (images[:1], images):
        with torch.no_grad():
            wanted, found = expected(given), form(given)
        if wanted.shape != found.shape or not (wanted - found).abs().max() <= TOLERANCE * max(1, wanted.abs().max()):
            raise CompileError(f"{path}: logits of {len(given)} images differ from the program's")
    return form
