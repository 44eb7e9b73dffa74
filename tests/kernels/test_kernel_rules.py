"""What runs on an NVIDIA GPU without a table of measured times: seen on fake tensors of one that is not there."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="there is no triton for this platform")
from nas import kernels
from nas.kernels._core import dispatch, launch
from nas.networks.model import build_model
from nas.networks.precision import to_memory_format
from nas.space.published import PUBLISHED

PASSES = ("forward", "grad_input", "grad_weight")
# what only makes a tensor, or another view of one
NO_LAUNCH = {
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view"),
    *("lift_fresh", "is_same_size"),
}


class Launches(TorchDispatchMode):
    """Counts the operations that run something on the device: one launch each, as the forward pass of involution is.

    A convolution of channels_last maps gives one, as cuDNN's does; where no GPU is, its fake would not.
    """

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        if func.namespace in ("aten", "opnas") and not (func.is_view or name in NO_LAUNCH):
            by = f" by {kernels.explain('involution', *args).provider}" if name == "involution" else ""
            self.names.append(name + by)
        y = func(*args, **(kwargs or {}))
        return y.contiguous(memory_format=torch.channels_last) if name == "convolution" else y


@pytest.fixture
def gpu(monkeypatch):
    """Tensors of an NVIDIA GPU, without memory, and no setting that says what runs."""
    monkeypatch.delenv("OPNAS_KERNELS", raising=False)
    for cached in (dispatch.runs_triton_well, launch.compiler_missing):
        cached.cache_clear()
    with FakeTensorMode(), torch.device("cuda"):
        yield
    for cached in (dispatch.runs_triton_well, launch.compiler_missing):
        cached.cache_clear()


def involution_arguments() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(2, 32, 7, 7), torch.empty(2, 2, 3, 3, 7, 7)


@pytest.mark.parametrize("pass_name", PASSES)
def test_involution_runs_by_triton_without_a_table(gpu, pass_name):
    choice = kernels.explain("involution", *involution_arguments(), pass_name=pass_name)
    assert choice.provider == "triton" and "on an NVIDIA GPU" in choice.reason


def test_maps_of_one_channel_lie_in_memory_as_others_do(gpu):
    """Else a network for grey images leaves channels_last at its first convolution, and none of its calls is known."""
    for shape, strides in (((2, 1, 4, 6), (24, 1, 6, 1)), ((2, 3, 4, 6), (72, 1, 18, 3))):
        assert to_memory_format(torch.empty(shape)).stride() == strides


def test_what_may_lose_waits_for_a_measured_time(gpu):
    choice = kernels.explain("depthwise_conv2d", torch.empty(2, 8, 7, 7), torch.empty(8, 1, 7, 7))
    assert choice.provider == "aten" and "nothing was measured on cuda" in choice.reason


def test_a_measured_time_is_asked_first(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    entry = {"op": "involution", "pass": "forward", "dtype": "float32", "images": 2, "channels": 32, "size": [7, 7]}
    entry |= {"kernel": [3, 3], "stride": [1, 1], "form": "", "triton_ms": 1.0, "aten_ms": 0.5, "config": {}}
    name = dispatch.gpu_name(torch.device("cuda"))
    (tmp_path / f"{name}.json").write_text(json.dumps({"entries": [entry]}), encoding="utf-8")
    chosen = [kernels.explain("involution", *involution_arguments(), pass_name=name).provider for name in PASSES]
    assert chosen == ["aten", "triton", "triton"]


def test_not_on_an_amd_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    choice = kernels.explain("involution", *involution_arguments())
    assert choice.provider == "aten" and "nothing was measured" in choice.reason


def test_not_where_triton_finds_no_compiler(gpu, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    choice = kernels.explain("involution", *involution_arguments())
    assert choice.provider == "aten" and "install gcc or clang" in choice.reason


def test_launches_of_a_network_of_involutions(gpu):
    torch.set_default_dtype(torch.bfloat16)  # fake parameters cannot be converted
    try:
        model = build_model(PUBLISHED["rednet50"]).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    image = torch.empty(1, 3, 224, 224, dtype=torch.bfloat16)
    with torch.no_grad(), Launches() as seen:
        model(image.contiguous(memory_format=torch.channels_last))
    assert seen.names.count("involution by triton") == 17
    assert len(seen.names) < 300, Counter(seen.names)


def test_a_kernel_starts_on_the_device_of_its_tensors(monkeypatch):
    """Where the current device is another one; the driver is a stand-in, as two GPUs are not there."""
    current, started = [0], []

    def exchange(index: int) -> int:
        before = current[0]
        current[0] = before if index < 0 else index
        return before

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)

    class Kernel:
        def __getitem__(self, grid):
            return lambda **_: started.append(current[0])

    on_second = SimpleNamespace(is_cuda=True, get_device=lambda: 1)
    monkeypatch.setattr(launch, "torch", SimpleNamespace(Tensor=SimpleNamespace, cuda=torch.cuda))
    launch.Launch(Kernel(), (1,), {"scale": 2, "x_ptr": on_second}, {})()  # pyright: ignore[reportArgumentType]
    assert started == [1] and current == [0]
