"""Export to ONNX, for any batch size, checked against the network with ONNX Runtime."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.base.errors import Failed, UserError
from nas.deploy.timm_folder import example_images
from nas.deploy.trained import TrainedNetwork
from nas.measure.runtimes import ONNX_PACKAGES, write_onnx
from nas.networks.plain_filters import PlainGlobalLocalFilter, with_plain_filters

TOLERANCE = 1e-4


class ExportError(Failed):
    """What was written does not compute what the network does."""


def export_onnx(
    trained: TrainedNetwork, folder: Path, opset: int | None = None, any_size: bool = False
) -> tuple[Path, float]:
    """Write model.onnx (input `images` [batch, C, H, W], output `logits`); returns it with the largest difference.

    Operations of ours are written out in ONNX's own, the global filter as a convolution. Its metadata has what is
    needed to use it: classes, mean, std, crop, interpolation, resolution. `opset` is ONNX's version of its operations,
    that of torch's exporter where absent. With `any_size` height and width are free as well. Raises UserError where a
    package is missing or a network has only one size, ExportError where ONNX Runtime's logits differ by more than 1e-4
    of their size.
    """
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: needs {', '.join(missing)}; pip install 'opnas[onnx]'")
    folder.mkdir(parents=True, exist_ok=True)
    images = example_images(trained, 3)
    model = with_plain_filters(trained.model(), images)
    path = folder / "model.onnx"
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=4096)}
    if any_size:
        _check_any_size(model)
        free |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        write_onnx(model, images, path, free, opset)
    except RuntimeError as error:  # whatever the exporter meets
        if not any_size:
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--any-size: an operator is bound to this size ({reason})") from None
    _describe(path, trained, opset)
    sides = (trained.resolution, trained.resolution + 8) if any_size else (trained.resolution,)
    return path, max(_check(path, model, trained, side) for side in sides)


def _check_any_size(model: torch.nn.Module) -> None:
    if any(isinstance(part, PlainGlobalLocalFilter) for part in model.modules()):
        raise UserError("--any-size: this network has global filters, which are as large as the maps of one resolution")


def _describe(path: Path, trained: TrainedNetwork, opset: int | None) -> None:
    """Write what a user of the file has to know into its metadata. Raises ExportError for another opset."""
    import onnx

    model = onnx.load(str(path))
    found = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset not in (None, found):
        path.unlink()
        raise ExportError(f"--opset {opset}: torch's exporter wrote {found}, which could not be converted")
    facts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in trained.facts.items()}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, str(path))


def _check(path: Path, model: torch.nn.Module, trained: TrainedNetwork, side: int) -> float:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, 4):
        images = example_images(trained, count, side)
        with torch.no_grad():
            expected = model(images).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        difference = float(np.abs(found - expected).max())
        largest = max(largest, difference)
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(f"{path}: logits differ by {difference:.2g} from the network's")
    return largest
