"""The Triton kernels under the interpreter.

Run by test_kernel_triton.py in a process of its own: TRITON_INTERPRET must be set before triton is imported.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from kernel_fuzz import CASES, backend, distance, run_case
from memory_checker import checked
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels
from kernels import dispatch
from kernels.geometry import forward_axis, gradient_axes
from kernels.launch import interpreted


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch):
    """Forces our kernels; PyTorch fills new memory with NaN and refuses what does not repeat bit by bit."""
    assert interpreted()
    monkeypatch.setenv("OPNAS_KERNELS", "triton")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("op", CASES)
def test_random_cases(op, seed):
    assert run_case(op, seed)["lanes"] > 0


def small(op: str, dtype=torch.float64) -> tuple:
    """The smallest arguments with a gradient that still have more than one tap, group and channel."""
    torch.manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    return {
        "depthwise_conv2d": lambda: (randn(1, 2, 3, 2), randn(2, 1, 2, 3), randn(2), 2, 1, 0.5, randn(1, 1, 2, 1)),
        "involution": lambda: (randn(1, 4, 3, 2), randn(1, 2, 3, 1, 2, 2), 2, (1, 1), (1, 1)),
        "gnconv_gate": lambda: (randn(1, 2, 2, 2), randn(1, 3, 2, 2), randn(3, 2, 1, 1), randn(3)),
    }[op]()


@pytest.mark.parametrize("op", CASES)
def test_derivatives_of_the_kernels_themselves(op):
    tensors, options = split(small(op))
    with checked() as watch:
        assert torch.autograd.gradcheck(lambda *t: call(op, t, options), tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda *t: call(op, t, options), tensors, fast_mode=True)
    assert watch.launches


@pytest.mark.parametrize("op", CASES)
def test_opcheck(op):
    x, *others = small(op, torch.float32)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    registered = getattr(torch.ops.opnas, op).default
    if op == "depthwise_conv2d":
        weight, bias, stride, padding, scale, gate = others
        arguments = (x, weight, bias, gate, (stride,) * 2, (padding,) * 2, scale)
    elif op == "involution":
        arguments = (x, others[0], (2, 2), *others[2:])
    else:
        arguments = (x, *others)
    torch.library.opcheck(registered, arguments, test_utils=tests)


def test_gradient_operations_pass_opcheck():
    grad = torch.randn(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    x = torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    ops, geometry = torch.ops.opnas, ((2, 2), (1, 1), (1, 1))
    depthwise, weight = (geometry[0], geometry[1], 0.5), torch.randn(1, 2, 3, 3, 2, 2)
    tests = ("test_schema", "test_faketensor")
    for op, arguments in {
        ops.depthwise_conv2d_grad_input: (grad, torch.randn(2, 1, 3, 3), [3, 3], *depthwise),
        ops.depthwise_conv2d_grad_weight: (grad, x, [3, 3], *depthwise),
        ops.involution_grad_input: (grad, weight, [3, 3], *geometry),
        ops.involution_grad_weight: (grad, x, 2, [3, 3], *geometry, [0, 4, 5, 3, 2, 1]),
    }.items():
        torch.library.opcheck(op.default, arguments, test_utils=tests)


@pytest.mark.parametrize("op", CASES)
def test_compiled_whole(op):
    tensors, options = split(small(op, torch.float32))
    compiled = torch.compile(lambda *t: call(op, t, options), fullgraph=True, backend="aot_eager", dynamic=True)
    expected = torch.autograd.grad(call(op, tensors, options).sum(), tensors)
    with checked() as watch:
        actual = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    assert watch.launches
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_one_graph_for_all_batches():
    counter = CompileCounterWithBackend("aot_eager")
    weight = torch.randn(3, 1, 3, 3)
    compiled = torch.compile(lambda x: kernels.depthwise_conv2d(x, weight), fullgraph=True, backend=counter)
    for n in (2, 3, 5):
        x = torch.randn(n, 3, 4, 4).contiguous(memory_format=torch.channels_last)
        torch._dynamo.mark_dynamic(x, 0)
        with checked() as watch:
            assert distance(compiled(x), torch.conv2d(x, weight, None, 1, 1, 1, 3)) < 1e-6
        assert watch.launches == ["window_sum"]
    assert counter.frame_count == 1


def test_exported_programs_keep_the_operation():
    class Net(torch.nn.Module):
        def forward(self, x, weight, kernel):
            return kernels.involution(kernels.depthwise_conv2d(x, weight), kernel)

    inputs = (torch.randn(1, 4, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(1, 2, 3, 3, 3, 3))
    program = torch.export.export(Net(), inputs)
    names = {str(node.target) for node in program.graph.nodes}
    assert {"opnas.depthwise_conv2d.default", "opnas.involution.default"} <= names
    torch.testing.assert_close(program.module()(*inputs), Net()(*inputs))


def test_autocast_reads_the_weights_as_they_are():
    x, weight = torch.randn(1, 3, 4, 4), torch.randn(3, 1, 3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), checked():
        y = kernels.depthwise_conv2d(x, weight)
        (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert y.dtype == torch.bfloat16 and grad.dtype == torch.float32
    exact = torch.conv2d(x.bfloat16().double(), weight.double(), None, 1, 1, 1, 3)
    assert distance(y.detach(), exact.detach()) < 5e-3


def test_contiguous_maps_are_converted_once():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    y = kernels.depthwise_conv2d(x, weight)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    for given, copies in ((x, 1), (y, 0), (y[:, 1:3], 0)):
        with torch.profiler.profile() as profile:
            kernels.depthwise_conv2d(given, weight[: given.shape[1]])
        assert sum(event.count for event in profile.key_averages() if event.key == "aten::clone") == copies


def test_the_same_bits_twice():
    x, grad = (torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last) for _ in "xg")
    run = torch.ops.opnas.depthwise_conv2d_grad_weight
    first, second = (run(grad, x, (3, 3), (1, 1), (1, 1), 1.0) for _ in "12")
    assert torch.equal(first, second)


def test_empty_batches():
    weight = torch.randn(3, 1, 3, 3, requires_grad=True)
    y = kernels.depthwise_conv2d(torch.randn(0, 3, 4, 4, requires_grad=True), weight)
    y.sum().backward()
    assert y.shape == (0, 3, 4, 4) and weight.grad is not None and not weight.grad.any()
    assert kernels.involution(torch.randn(0, 4, 3, 3), torch.randn(0, 2, 3, 3, 3, 3)).shape == (0, 4, 3, 3)
    assert kernels.gnconv_gate(torch.randn(0, 2, 3, 3), torch.randn(0, 4, 3, 3), torch.randn(4, 2, 1, 1)).numel() == 0


def test_kernels_with_many_rows():
    x, weight = torch.randn(1, 2, 3, 1), torch.randn(1, 1, 17, 1, 3, 1, requires_grad=True)
    with checked():
        y = kernels.involution(x, weight)
        (grad,) = torch.autograd.grad(y.sum(), weight)
    with backend("reference"):
        z = kernels.involution(x, weight)
        (expected,) = torch.autograd.grad(z.sum(), weight)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(grad, expected)


def test_obstacles_are_said():
    many = torch.randn(1, 1, 33, 1, 1, 1)
    with pytest.raises(RuntimeError, match="33 rows: allowed are up to 32"):
        kernels.explain("involution", torch.randn(1, 2, 1, 1), many, 1, (16, 0), passing="grad_weight")
    wide = torch.empty(1, dtype=torch.complex64).expand(1, 2, 3, 3)
    with pytest.raises(RuntimeError, match=r"complex64: allowed is one of torch\.float16"):
        kernels.depthwise_conv2d(wide, torch.empty(2, 1, 3, 3, dtype=torch.complex64))
    with FakeTensorMode(), pytest.raises(RuntimeError, match=r"2\^31"):
        huge = torch.empty_strided((1, 2, 3, 3), (0, 2**31, 3, 1))
        kernels.explain("depthwise_conv2d", huge, torch.empty(2, 1, 3, 3))


def test_the_checker_sees_a_read_outside():
    from kernels.depthwise_conv2d import triton

    x, packed, out = torch.randn(1, 2, 3, 3), torch.randn(3, 3, 2), torch.empty(1, 2, 3, 3)
    x, out = (t.contiguous(memory_format=torch.channels_last) for t in (x, out))
    axis = forward_axis(3, 1, 1)
    launch = triton.window_launch(x, packed, None, None, out, (axis, axis), 1.0)
    with checked():
        launch()
    wrong = dataclasses.replace(launch, constants={**launch.constants, "SOURCE_H": 4})
    with pytest.raises(AssertionError, match=r"window_sum: .* lanes of a load"), checked():
        wrong()


def test_gradient_windows_meet_every_tap_once():
    for kernel, stride, padding, dilation, size in [(3, 1, 1, 1, 5), (5, 2, 2, 1, 7), (3, 3, 0, 2, 9), (1, 2, 0, 1, 4)]:
        out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        forward = {(o * stride + i * dilation - padding, o, i) for o in range(out) for i in range(kernel)}
        backward = set()
        for axis in gradient_axes(kernel, stride, padding, dilation):
            for at, pixel in enumerate(range(axis.start, size, axis.jump)):
                for t in range(axis.taps):
                    source = at * axis.step + axis.base + t * axis.reach
                    backward.add((pixel, source, axis.first_tap + t * axis.tap_step))
        assert {f for f in forward if 0 <= f[0] < size} == {b for b in backward if 0 <= b[1] < out}


def test_the_table_of_measured_times_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(8, 1, 3, 3)
    measured = {"op": "depthwise_conv2d", "dtype": "float32", "images": 2, "channels": 8, "size": [6, 6]}
    measured |= {"kernel": [3, 3], "stride": [1, 1], "aten_ms": 1.0, "config": {"ROWS": 2}}
    times = {"forward": 0.9, "grad_input": 0.98, "grad_weight": 0.5}
    entries = [{**measured, "pass": name, "triton_ms": ms} for name, ms in times.items()]
    (tmp_path / "cpu.json").write_text(dispatch.json.dumps({"entries": entries}))
    chosen = {name: kernels.explain("depthwise_conv2d", x, weight, passing=name).provider for name in times}
    assert chosen == {"forward": "triton", "grad_input": "aten", "grad_weight": "triton"}
    assert "0.9 ms by triton against 1 ms by aten" in kernels.explain("depthwise_conv2d", x, weight).reason
    with checked() as watch:
        x.requires_grad_()
        kernels.depthwise_conv2d(x, weight.requires_grad_()).sum().backward()
    assert watch.launches == ["window_sum", "window_partials"]
    far = kernels.explain("depthwise_conv2d", torch.randn(2, 8, 20, 20), weight)
    assert far.provider == "aten" and "no forward like this was measured" in far.reason
    assert kernels.explain("depthwise_conv2d", x.double(), weight.double()).provider == "aten"


def test_tuning_writes_the_table_that_decides(tmp_path, monkeypatch):
    from nas import bench_kernels

    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    monkeypatch.setitem(bench_kernels.SUITES, "tiny", bench_kernels.TINY[2:])
    monkeypatch.setitem(bench_kernels.TILES, "gnconv_gate", {"BLOCK_PIXELS": (32,), "BLOCK_OUTER": (16,)})
    torch.use_deterministic_algorithms(False)
    found = bench_kernels.tune(bench_kernels.table_path("cpu"), "tiny", "cpu")
    assert [entry["dtype"] for entry in found["entries"]] == ["bfloat16", "float16", "float32"]
    for entry in found["entries"]:
        assert entry["tried"] == 2 and entry["triton_ms"] > 0 and entry["aten_ms"] > 0
    y, a, weight = torch.randn(2, 8, 6, 6), torch.randn(2, 16, 6, 6), torch.randn(16, 8, 1, 1)
    # interpreted kernels are slow, and the table knows
    choice = kernels.explain("gnconv_gate", y, a, weight)
    assert choice.provider == "aten" and "ms by triton against" in choice.reason


def test_fake_tensors_of_a_gpu_that_is_not_there():
    with FakeTensorMode():
        x = torch.empty(2, 4, 5, 5, device="cuda").contiguous(memory_format=torch.channels_last)
        y = kernels.depthwise_conv2d(x, torch.empty(4, 1, 3, 3, device="cuda"), stride=2)
        assert y.shape == (2, 4, 3, 3) and y.stride() == (36, 1, 12, 4)
        z = kernels.gnconv_gate(x, x, torch.empty(4, 4, 1, 1, device="cuda"))
        assert z.stride() == x.stride()


def split(arguments: tuple) -> tuple[list[torch.Tensor], tuple]:
    """The tensors, and the arguments with a place for each."""
    return [a for a in arguments if isinstance(a, torch.Tensor)], arguments


def call(op: str, tensors, arguments: tuple) -> torch.Tensor:
    given = iter(tensors)
    return getattr(kernels, op)(*(next(given) if isinstance(a, torch.Tensor) else a for a in arguments))
