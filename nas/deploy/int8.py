"""An ONNX export in 8-bit integers by ONNX Runtime's static quantisation, with what that costs and gains, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.deploy.measured import Form, Sample


def quantise(path: Path, sample: Sample) -> tuple[Path, dict[str, Any]]:
    """Write model.int8.onnx beside an ONNX file, and int8.json with the accuracy and the time of both.

    The sample's calibration images set the ranges of the activations; weights have a range per channel.
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

    prepared, target = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    try:
        quant_pre_process(str(path), str(prepared))
        quantize_static(
            str(prepared),
            str(target),
            Reader(sample.calibration.numpy()),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        prepared.unlink(missing_ok=True)
    forms = {"float32": _form(path), "int8": _form(target)}
    return target, sample.write(target.parent / "int8.json", forms)


def _form(file: Path) -> Form:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(np.asarray(session.run(None, {"images": images.numpy()})[0]))
