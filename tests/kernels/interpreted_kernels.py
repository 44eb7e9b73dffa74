"""The Triton kernels under the interpreter: random cases, and what decides between kernels and PyTorch.

Run by test_kernel_triton.py, with interpreted_contract.py, in a process of its own: TRITON_INTERPRET must be set before
triton is imported. The interpreter of triton 3.6 needs numpy below 2.4.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_fuzz import CASES, backend, run_case
from memory_checker import checked
from torch._subclasses.fake_tensor import FakeTensorMode

from nas import kernels, operators
from nas.kernels._core import dispatch, prepared
from nas.kernels._core import forms as chosen
from nas.kernels._core.geometry import forward_axis, gradient_axes
from nas.kernels._core.launch import interpreted
from nas.kernels.conv2d.aten import ACTIVATIONS
from nas.kernels.operations import OPERATIONS
from nas.kernels.tools import choosing, compiling
from nas.kernels.tools.choosing import FORMS, cases
from nas.kernels.tools.rows import distance
from nas.kernels.tools.work import works
from nas.networks.model import build_model, fuse_for_inference
from nas.operators.conv import FusedConv2d
from nas.space import specs
from nas.space.genotype import Genotype

OPERATORS = {
    "conv": partial(operators.Conv, groups="depthwise"),
    "involution": partial(operators.Involution, kernel_size=3),
    "odconv": operators.ODConv,
    "scconv": partial(operators.SCConv, pooling=2),
    "gnconv": operators.GnConv,
    "filter": partial(operators.GnConv, order=2, filter="global", grid=(5, 4)),
}
BACKWARD = {
    "odconv2d": {"folded_outer", "sampled_outer"},
    "gnconv_recursion": {"gated_product"},
    "spanned_involution": {"window_product"},
    "global_filter": {"filter_gradient"},
}


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch):
    """Forces our kernels; PyTorch fills new memory with NaN and refuses what does not repeat bit by bit."""
    assert interpreted()
    monkeypatch.setenv("OPNAS_KERNELS", "triton")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# a case per dtype: strides, dilations, windows larger than the map, ragged blocks, slices, weights in any order
TELLING = {
    "conv2d": (4, 13, 2, 11, 12),
    "odconv2d": (16, 25, 2, 15, 30),
    "odconv2d_n_fold": (4, 13, 2, 11),
    "depthwise_conv2d": (32, 33, 34, 7),
    "involution": (4, 33, 22, 7),
    "gnconv_gate": (16, 17, 30, 19),
    "gnconv_recursion": (0, 1, 2, 3),
    "self_calibrated_gate": (4, 1, 2, 3),
    "spanned_involution": (4, 2, 3),
    "global_filter": (0, 1, 2, 3),
}


@pytest.mark.parametrize(("op", "seed"), [(op, seed) for op, seeds in TELLING.items() for seed in seeds])
def test_random_cases(op, seed):
    assert run_case(op, seed)["lanes"] > 0


@pytest.mark.parametrize("op", ["odconv2d", "depthwise_conv2d"])
def test_launches_that_are_kept_compute_from_what_they_get(op):
    """The second time, from other tensors of the same sizes; also what they make themselves."""
    prepared._ready.clear()
    run_case(op, TELLING[op][0])
    kept = set(prepared._ready)
    run_case(op, TELLING[op][0], values=1)
    assert kept and set(prepared._ready) == kept


@pytest.mark.parametrize(
    ("name", "dtype"), [("gnconv", None), ("filter", None), ("odconv", torch.bfloat16), ("scconv", torch.bfloat16)]
)
def test_what_was_measured_as_the_fastest_runs(name, dtype, monkeypatch):
    """Our kernels for just the calls that they won, with all gradients, which autograd takes later."""
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "_granted", {})
    operator, x = OPERATORS[name](8, 8), torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    found = cases(operator, x, dtype, training=True)
    won = {str(case): "triton" for case in found if "triton" in FORMS[case.forms].forms}

    def gradients(choices: dict[str, str], images: torch.Tensor) -> tuple[set[str], torch.Tensor]:
        kernels.use(choices)
        with checked() as watch, torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            y = operator(images)
            grads = torch.autograd.grad(y.float().sum(), list(operator.parameters()))
        kernels.use({})
        return set(watch.launches), torch.cat([t.flatten().double() for t in (y, *grads)])

    (none, expected), (ran, ours) = gradients({}, x), gradients(won, x)
    assert not none and ran
    assert distance(ours, expected) < (1e-5 if dtype is None else 5e-2)
    assert not gradients(won, x[:1])[0]  # which was not measured


def test_tune_compiles_all_by_a_pool_before_it_measures(monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    operator, pooled = OPERATORS["scconv"](8, 8).eval(), []
    with checked() as watch:
        monkeypatch.setattr(compiling, "_compiled", lambda launches, _: pooled.append((launches, len(watch.launches))))
        choices = kernels.tune(operator, (1, 8, 5, 4))
    kernels.use({})
    ((launches, num_started),) = pooled
    assert {launch.kernel[1] for launch in launches} == set(watch.launches) and num_started == 0
    assert len(choices) == 1 and watch.launches


def test_only_what_our_kernels_win_is_opaque_to_a_compiler(tmp_path, monkeypatch):
    """By a table, and by what was measured for a call: all else it gets as PyTorch's own operations, which it fuses."""
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    monkeypatch.setattr(dispatch, "_granted", {})
    x, weight, small = torch.randn(2, 8, 4, 4), torch.randn(8, 1, 3, 3), torch.randn(2, 8, 1, 1)

    def run(x, small):
        pooled = F.avg_pool2d(kernels.depthwise_conv2d(x, weight), 2)
        return kernels.self_calibrated_gate(pooled, pooled, small)

    def opaque(*images: torch.Tensor) -> set[str]:
        """What the one graph of all has of ours, and what ran of it; compiled anew."""
        torch._dynamo.reset()
        found = torch._dynamo.explain(run)(*images)
        assert found.graph_count == 1 and not found.graph_break_count
        expected = run(*images)
        with checked() as watch:
            assert distance(torch.compile(run, fullgraph=True, backend="aot_eager")(*images), expected) < 2e-6
        names = {str(op).removeprefix("opnas.").removesuffix(".default") for ops in found.ops_per_graph for op in ops}
        return (names & set(OPERATIONS)) | set(watch.launches)

    assert opaque(x, small) == set()
    with chosen.noted() as found:
        run(x, small)
    kernels.use({str(case): "triton" for case in found if case.forms == "self_calibrated_gate_provider"})
    assert opaque(x, small) == {"self_calibrated_gate", "calibrated_gate"}
    assert opaque(x[:1], small[:1]) == set()  # which was not measured
    kernels.use({})
    dispatch._granted.clear()
    size = {"dtype": "float32", "images": 2, "channels": 8, "form": "", "aten_ms": 1.0, "config": {}}
    won = {**size, "op": "depthwise_conv2d", "pass": "forward", "size": [4, 4], "kernel": [3, 3], "stride": [1, 1]}
    lost = {**won, "op": "self_calibrated_gate", "size": [2, 2], "kernel": [1, 1]}
    entries = [{**won, "triton_ms": 0.5}, {**lost, "triton_ms": 0.98}]
    (tmp_path / "cpu.json").write_text(dispatch.json.dumps({"entries": entries}))
    dispatch._table.cache_clear()
    dispatch._nearest.cache_clear()
    assert opaque(x, small) == {"depthwise_conv2d", "window_sum"}


@pytest.mark.parametrize(("op", "channels", "far_size"), [("depthwise_conv2d", 32, 13), ("odconv2d", 8, 21)])
def test_the_second_way_of_our_kernels(op, channels, far_size, monkeypatch):
    """Another tile, another algorithm: measured where it may win by what it moves and computes, run where it won."""
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "_granted", {})
    x, wide = (torch.randn(2, channels, size, size, requires_grad=True) for size in (7, far_size))
    filters, kernel = torch.randn(channels, 1, 3, 3, requires_grad=True), torch.rand(2, 4)
    weight = torch.randn(4, 8, 8, 3, 3, requires_grad=True)
    parameter = {"depthwise_conv2d": filters, "odconv2d": weight}[op]
    call = eager = {
        "depthwise_conv2d": lambda x: kernels.depthwise_conv2d(x, filters),
        "odconv2d": lambda x: kernels.odconv2d(x, weight, kernel=kernel, padding=1),
    }[op]

    def values() -> torch.Tensor:
        y = call(x)
        return torch.cat([t.detach().flatten() for t in (y, *torch.autograd.grad(y.square().sum(), (x, parameter)))])

    with chosen.noted() as found:
        expected, _ = values(), call(wide)
    near, far = (case for case in found if case.forms == f"{op}_provider")
    assert choosing.fitting_forms(near, "aten") == ["aten", "triton", "triton_2"]
    assert choosing.fitting_forms(far, "aten") == ["aten", "triton"]
    ran = {}
    for form, compiled in (("triton", False), ("triton_2", False), ("triton", True), ("triton_2", True)):
        kernels.use({str(near): form})
        dispatch._granted.clear()  # as in a process that compiles first
        torch._dynamo.reset()
        call = torch.compile(eager, fullgraph=True, backend="aot_eager") if compiled else eager
        with checked():
            assert distance(values(), expected.double()) < 2e-6
        with prepared.collected() as launches:
            values()
        ran[form, compiled] = {
            (launch.kernel.__name__, launch.num_warps if op == "depthwise_conv2d" else 0) for launch in launches
        }
    kernels.use({})
    assert not ran["triton", False] & ran["triton_2", False]
    assert ran["triton", True] == ran["triton", False] and ran["triton_2", True] == ran["triton_2", False]


def test_every_operation_has_cases():
    assert set(TELLING) == set(CASES)


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


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_whole_operators(name, create_graph):
    """Where what an operation gets was computed from what it also gets."""
    torch.manual_seed(0)
    operator = OPERATORS[name](8, 8).train()
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    factors = torch.randn(2, 8, 5, 4)

    def gradients() -> list[torch.Tensor]:
        y = operator(x.sin())
        asked = [x, *operator.parameters()]
        return [y, *torch.autograd.grad(y, asked, factors, create_graph=create_graph)]

    with checked() as watch:
        found = gradients()
    assert watch.launches
    with backend("reference"):
        expected = gradients()
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [specs.Basic, specs.Bottleneck, specs.InvertedResidual])
@torch.no_grad()
def test_a_fused_network(block):
    """Sums and activations behind convolutions, in every block that has them."""
    torch.manual_seed(0)
    operator = specs.Conv(groups="depthwise") if block is specs.InvertedResidual else specs.Conv()
    blocks = (block(width=8, operator=operator), block(width=8, operator=operator))
    model = build_model(Genotype(stem=specs.Stem(kind="small", width=8), stages=(blocks,)), 3).eval()
    x = torch.randn(2, 3, 6, 5).contiguous(memory_format=torch.channels_last)
    with checked() as watch:
        y = fuse_for_inference(model)(x)
    assert watch.launches.count("convolution_product") == {specs.Basic: 5, specs.Bottleneck: 7}.get(block, 5)
    with backend("reference"):
        torch.testing.assert_close(y, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_weight_that_two_steps_share(create_graph):
    y, a, weight, out = (
        torch.randn(s).requires_grad_() for s in ((1, 3, 2, 3), (1, 6, 2, 3), (3, 3, 1, 1), (2, 3, 1, 1))
    )

    def gradients() -> tuple[torch.Tensor, ...]:
        found = kernels.gnconv_recursion(y, a, (weight, weight), (None, None), out)
        return torch.autograd.grad(found.sum(), (y, a, weight, out), create_graph=create_graph)

    found = gradients()
    with backend("reference"):
        for mine, theirs in zip(found, gradients(), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("op", [*BACKWARD, "self_calibrated_gate"])
def test_the_benchmark_times_our_kernels_alone(op):
    """Of training the backward pass too."""
    shape = OPERATIONS[op].tiny[0]
    for work in works((shape,), ("float32",), torch.device("cpu")):
        inputs = work.make()
        for form in (form for name, form in work.forms.items() if name.startswith("triton")):
            with checked() as watch, torch.no_grad():
                found = form(*inputs)
            of = BACKWARD.get(op) if work.pass_name == "training" else None
            assert watch.launches and (of is None or of & set(watch.launches)), (work.pass_name, watch.launches)
            assert distance(found, work.exact(*inputs)) < 2e-6


def test_obstacles_are_said():
    many = torch.randn(1, 1, 33, 1, 1, 1)
    with pytest.raises(RuntimeError, match="33 rows: allowed are up to 32"):
        kernels.explain("involution", torch.randn(1, 2, 1, 1), many, 1, (16, 0), pass_name="grad_weight")
    wide = torch.empty(1, dtype=torch.complex64).expand(1, 2, 3, 3)
    with pytest.raises(RuntimeError, match=r"complex64: allowed is one of torch\.float16"):
        kernels.depthwise_conv2d(wide, torch.empty(2, 1, 3, 3, dtype=torch.complex64))
    with FakeTensorMode(), pytest.raises(RuntimeError, match=r"2\^31"):
        huge = torch.empty_strided((1, 2, 3, 3), (0, 2**31, 3, 1))
        kernels.explain("depthwise_conv2d", huge, torch.empty(2, 1, 3, 3))
    with pytest.raises(RuntimeError, match="33x2 pixels: allowed are up to 32 rows and columns"):
        kernels.global_filter(torch.randn(1, 1, 33, 2), torch.randn(1, 33, 2, 2))


def test_what_is_too_large_for_one_kernel_runs_in_several():
    x, features, spans = torch.randn(1, 2, 3, 3), torch.randn(1, 129, 3, 3), torch.randn(9, 129, 1, 1)
    y, a, weight, out = (torch.randn(*s) for s in ((1, 2, 3, 3), (1, 129, 3, 3), (129, 2, 1, 1), (2, 129, 1, 1)))
    with pytest.raises(RuntimeError, match="129 channels: allowed are up to 128"):
        kernels.explain("spanned_involution", x, features, spans)
    with pytest.raises(RuntimeError, match="a step has 129 channels: allowed are up to 128"):
        kernels.explain("gnconv_recursion", y, a, [weight], [None], out)
    with checked() as watch:
        kernels.spanned_involution(x, features, spans)
        kernels.gnconv_recursion(y, a, [weight], [None], out)
    assert watch.launches == ["window_sum", "gated_product"]


def test_the_checker_sees_a_read_outside():
    from nas.kernels.depthwise_conv2d import triton

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
                    source = at * axis.stride + axis.base + t * axis.dilation
                    backward.add((pixel, source, axis.first_tap + t * axis.tap_step))
        assert {f for f in forward if 0 <= f[0] < size} == {b for b in backward if 0 <= b[1] < out}


def test_the_table_of_measured_times_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    x, weight = torch.randn(2, 8, 3, 3), torch.randn(8, 1, 3, 3)
    measured = {"op": "depthwise_conv2d", "dtype": "float32", "images": 2, "channels": 8, "size": [3, 3]}
    measured |= {"kernel": [3, 3], "stride": [1, 1], "form": "", "aten_ms": 1.0, "config": {"ROWS": 2}}
    times = {"forward": 0.9, "grad_input": 0.98, "grad_weight": 0.5}
    entries = [{**measured, "pass": name, "triton_ms": ms} for name, ms in times.items()]
    (tmp_path / "cpu.json").write_text(dispatch.json.dumps({"entries": entries}))
    chosen = {name: kernels.explain("depthwise_conv2d", x, weight, pass_name=name).provider for name in times}
    assert chosen == {"forward": "triton", "grad_input": "aten", "grad_weight": "triton"}
    assert "0.9 ms by triton against 1 ms by aten" in kernels.explain("depthwise_conv2d", x, weight).reason
    with checked() as watch:
        x.requires_grad_()
        kernels.depthwise_conv2d(x, weight.requires_grad_()).sum().backward()
    assert watch.launches == ["window_sum", "window_partials"]
    far = kernels.explain("depthwise_conv2d", torch.randn(2, 8, 9, 9), weight)
    assert far.provider == "aten" and "no forward like this was measured" in far.reason
    assert kernels.explain("depthwise_conv2d", x.double(), weight.double()).provider == "aten"


def test_a_convolution_with_something_behind_it_is_a_choice_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "TABLES", tmp_path)
    x, weight, residual = torch.randn(2, 8, 3, 3), torch.randn(8, 8, 1, 1), torch.randn(2, 8, 3, 3)
    entry = {"op": "conv2d", "dtype": "float32", "images": 2, "channels": 8, "size": [3, 3]}
    entry |= {"kernel": [1, 1], "stride": [1, 1], "form": "", "triton_ms": 0.5, "aten_ms": 1.0, "config": {}}
    entries = [entry | {"pass": "activated"}, entry | {"pass": "joined", "triton_ms": 0.99}]
    (tmp_path / "cpu.json").write_text(dispatch.json.dumps({"entries": entries}))
    cases: list[tuple[dict[str, Any], str]]
    cases = [({}, "aten"), ({"activation": "relu"}, "triton"), ({"scale": torch.ones(8)}, "triton")]
    for behind, provider in [*cases, ({"residual": residual}, "aten")]:
        assert kernels.explain("conv2d", x, weight, **behind).provider == provider
        with checked() as watch:
            kernels.conv2d(x, weight, **behind)
        assert watch.launches == (["convolution_product"] if provider == "triton" else [])
    for filters, provider in ((16, "triton"), (32, "aten")):  # four times as many channels out as were measured
        weight = torch.randn(filters, 8, 1, 1)
        assert kernels.explain("conv2d", x, weight, activation="relu").provider == provider


@pytest.mark.parametrize("activation", sorted(filter(None, ACTIVATIONS)))
def test_nan_stays_nan(activation):
    x, weight = torch.randn(1, 2, 3, 3), torch.randn(4, 2, 1, 1)
    x[0, 1, 1, 1] = float("nan")
    y = kernels.conv2d(x, weight, activation=activation)
    assert y[0, :, 1, 1].isnan().all() and y.isnan().sum() == 4


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_an_exported_fused_convolution_decomposes(activation):
    convolution = FusedConv2d(torch.nn.Conv2d(2, 4, 1).requires_grad_(False), activation)
    inputs = torch.randn(2, 2, 3, 3), torch.randn(2, 4, 3, 3)
    exported = torch.export.export(convolution, inputs)
    assert "opnas.conv2d" in str(exported.graph)
    plain = exported.run_decompositions(kernels.decompositions())
    assert "opnas" not in str(plain.graph)
    torch.testing.assert_close(plain.module()(*inputs), convolution(*inputs))


def test_fake_tensors_of_a_gpu_that_is_not_there():
    with FakeTensorMode():
        x = torch.empty(2, 4, 5, 5, device="cuda").contiguous(memory_format=torch.channels_last)
        y = kernels.depthwise_conv2d(x, torch.empty(4, 1, 3, 3, device="cuda"), stride=2)
        assert y.shape == (2, 4, 3, 3) and y.stride() == (36, 1, 12, 4)
        z = kernels.gnconv_gate(x, x, torch.empty(4, 4, 1, 1, device="cuda"))
        assert z.stride() == x.stride()
