"""Export to ONNX, for any batch size, checked against the network with ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from nas.base.errors import Failed, UserError
from nas.deploy.retrained import Retrained
from nas.deploy.timm_folder import example_images

NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4


class ExportError(Failed):
    """What was written does not compute what the network does."""


def export_onnx(retrained: Retrained, folder: Path) -> tuple[Path, float]:
    """Write model.onnx (input `images` [batch, C, H, W], output `logits`); returns it with the largest difference.

    Operations of ours are written out in ONNX's own, the global filter as matrix products. Raises UserError where a
    package is missing, ExportError where ONNX Runtime's logits differ by more than 1e-4 of their size.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: needs {', '.join(missing)}; pip install 'opnas[onnx]'")
    folder.mkdir(parents=True, exist_ok=True)
    model, images = retrained.model(), example_images(retrained, 3)
    path = folder / "model.onnx"
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            model,
            (images,),
            str(path),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
    return path, _check(path, model, retrained)


def _check(path: Path, model: torch.nn.Module, retrained: Retrained) -> float:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, 4):
        images = example_images(retrained, count)
        with torch.no_grad():
            expected = model(images).numpy()
        (found,) = session.run(None, {"images": images.numpy()})
        difference = float(np.abs(found - expected).max())
        largest = max(largest, difference)
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(f"{path}: logits differ by {difference:.2g} from the network's")
    return largest
