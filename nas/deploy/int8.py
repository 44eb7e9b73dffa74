"""An ONNX export in 8-bit integers by ONNX Runtime's static quantisation, with what that costs and gains, measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.data.batches import Batch

CALIBRATION_IMAGES = 128


def quantise(path: Path, batches: Iterable[Batch]) -> tuple[Path, dict[str, Any]]:
    """Write model.int8.onnx beside an ONNX file, and int8.json with the accuracy and the time of both.

    Of the images [N, C, H, W] with their labels, 128 spread over all set the ranges of the activations, the others are
    scored: {"calibration_images", "num_images", "float32": {"top1", "ms_per_image"}, "int8": ...}. Weights have a range
    per channel. Raises UserError for too few images.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """The images that set the ranges, one at a time, as ONNX Runtime asks for them."""

        def __init__(self, images: np.ndarray):
            self._left = iter(images)

        def get_next(self):
            image = next(self._left, None)
            return None if image is None else {"images": image[None]}

    images, labels = (np.concatenate(arrays) for arrays in zip(*((x.cpu(), y.cpu()) for x, y in batches), strict=True))
    if len(images) < 2 * CALIBRATION_IMAGES:
        raise UserError(f"--int8: needs {2 * CALIBRATION_IMAGES} images or more, there are {len(images)}")
    chosen = np.zeros(len(images), bool)
    chosen[np.linspace(0, len(images) - 1, CALIBRATION_IMAGES).astype(int)] = True
    prepared, target = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    try:
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(target),
            Reader(images[chosen]),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        prepared.unlink(missing_ok=True)
    found: dict[str, Any] = {"calibration_images": int(chosen.sum()), "num_images": int((~chosen).sum())}
    for name, file in (("float32", path), ("int8", target)):
        found[name] = _measured(file, images[~chosen], labels[~chosen])
    write_atomically(target.parent / "int8.json", json.dumps(found, indent=1))
    return target, found


def _measured(file: Path, images: np.ndarray, labels: np.ndarray, batch_size: int = 32) -> dict[str, float]:
    """Accuracy, and milliseconds per image of batches of 32, without the first."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    session.run(None, {"images": images[:batch_size]})
    right, began = 0, time.perf_counter()
    for start in range(0, len(images), batch_size):
        (logits,) = session.run(None, {"images": images[start : start + batch_size]})
        right += int((np.asarray(logits).argmax(1) == labels[start : start + batch_size]).sum())
    return {"top1": right / len(images), "ms_per_image": 1000 * (time.perf_counter() - began) / len(images)}
