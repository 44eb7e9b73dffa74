"""What runs a network while its latency is measured: PyTorch, torch.compile, a CUDA graph, ONNX Runtime."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.base.errors import MachineError
from nas.networks.model import Network
from nas.networks.plain_filters import with_plain_filters

Call = Callable[[], object]
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
WARM_RUNS = 3


def call_of(runtime: str, model: nn.Module, images: Tensor, num_threads: int) -> Call:
    """A function that runs the inference of `model`, in eval mode, on `images` [N, C, H, W] of its device once.

    It is made, and called, in `torch.inference_mode()` and within autocast. MachineError where the runtime lacks a
    package, ValueError for a graph on a CPU or another name.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime = {runtime!r}: allowed are {', '.join(RUNTIMES)}")
    return RUNTIMES[runtime](model, images, num_threads)


def check_runtime(runtime: str) -> None:
    """Raise MachineError where what a runtime needs is not installed."""
    missing = [name for name in ONNX_PACKAGES if runtime == "onnxruntime" and find_spec(name) is None]
    if missing:
        raise MachineError(f"onnxruntime needs {', '.join(missing)}; pip install 'opnas[onnx]'")


def write_onnx(
    model: nn.Module, images: Tensor, path: Path, free: Mapping[int, Any] | None = None, opset: int | None = None
) -> None:
    """Write a network to an ONNX file with input `images` and output `logits`, for images as these; `free` are
    dimensions of them that may differ. Global filters must have been written out, see `with_plain_filters`."""
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
            dynamic_shapes=(dict(free),) if free else None,
            external_data=False,
            opset_version=opset,
            verbose=False,
        )


def _plain(model: nn.Module, images: Tensor, num_threads: int) -> Call:
    return lambda: model(images)


def _compiled(model: nn.Module, images: Tensor, num_threads: int) -> Call:
    """By torch.compile, for this one shape. What it kept of networks before goes: it keeps a few of one code alone."""
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=False)
    return lambda: compiled(images)


def _graph(model: nn.Module, images: Tensor, num_threads: int) -> Call:
    """As a CUDA graph: it runs some times beside the stream, where kernels are compiled, and once for the graph.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    if images.device.type != "cuda":
        raise ValueError(f"runtime = graph on {images.device}: allowed is cuda, whose graphs are replayed")
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_RUNS):
            model(images)
    torch.cuda.current_stream().wait_stream(beside)
    found = torch.cuda.CUDAGraph()
    with torch.cuda.graph(found):
        model(images)
    return found.replay


def _onnx_runtime(model: nn.Module, images: Tensor, num_threads: int) -> Call:
    """By ONNX Runtime on the CPU, with its own optimizations, from a file for this one shape."""
    check_runtime("onnxruntime")
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        path, given = Path(folder) / "model.onnx", images.clone()
        plain = with_plain_filters(copy.deepcopy(model), given) if isinstance(model, Network) else model
        write_onnx(plain, given, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = num_threads, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {"images": given.numpy()}
    return lambda: session.run(None, inputs)


RUNTIMES: dict[str, Callable[[nn.Module, Tensor, int], Call]] = {
    "torch": _plain,
    "compile": _compiled,
    "graph": _graph,
    "onnxruntime": _onnx_runtime,
}
