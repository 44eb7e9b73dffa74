"""What every operator keeps to: one set of tests over OPERATORS, with the options that change its form.

And the core modules reproduce recorded numbers of the published ones: output, gradients, running statistics.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from helpers import golden
from nas import kernels
from nas.operators import (
    OPERATORS,
    Conv,
    GlobalLocalFilter,
    GnConv,
    GnConv2d,
    Involution,
    Involution2d,
    ODConv,
    ODConv2d,
    SCConv,
    SelfCalibratedConv2d,
    build_operator,
)
from nas.operators.common import PIECE, drawing, normal_

VARIANTS = {
    "conv": ("conv", {}),
    "conv_grouped": ("conv", {"groups": 4, "dilation": 2, "kernel_size": 5}),
    "conv_depthwise": ("conv", {"groups": "depthwise", "kernel_size": 7, "bias": True}),
    "involution": ("involution", {}),
    "involution_dilated": ("involution", {"kernel_size": 5, "dilation": 2}),
    "involution_small": ("involution", {"kernel_size": 3, "group_channels": 4, "reduction": 2}),
    "odconv": ("odconv", {}),
    "odconv_single": ("odconv", {"num_kernels": 1, "groups": 2, "dilation": 2}),
    "odconv_pointwise": ("odconv", {"kernel_size": 1}),
    "odconv_depthwise": ("odconv", {"groups": "depthwise", "num_kernels": 2}),
    "scconv": ("scconv", {}),
    "scconv_dilated": ("scconv", {"pooling": 2, "dilation": 2}),
    "gnconv_2": ("gnconv", {"order": 2, "scale": 1.0}),
    "gnconv_5": ("gnconv", {"order": 5}),
    "gnconv_global": ("gnconv", {"filter": "global", "grid": (4, 3)}),
}
TRACED = ["conv_depthwise", "involution", "odconv", "scconv", "gnconv_2", "gnconv_global"]
WIDTHS = [(16, 16), (8, 24), (24, 8), (1, 1), (7, 13), (33, 5), (1, 6)]
MAPS = [(1, 1), (2, 3), (3, 1), (7, 5), (8, 8), (13, 11)]


def build(variant: str, c_in: int, c_out: int, stride: int = 1) -> torch.nn.Module:
    name, options = VARIANTS[variant]
    torch.manual_seed(0)
    return build_operator(name, c_in, c_out, stride, **options)


def test_every_operator_has_a_variant():
    assert {name for name, _ in VARIANTS.values()} == set(OPERATORS)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes(variant, stride):
    for c_in, c_out in WIDTHS:
        operator = build(variant, c_in, c_out, stride)
        meta = build(variant, c_in, c_out, stride).to("meta")
        for height, width in MAPS:
            expected = (c_out, -(-height // stride), -(-width // stride))
            for batch, training in ((1, False), (1, True), (2, True)):
                y = operator.train(training)(torch.randn(batch, c_in, height, width))
                assert y.shape == (batch, *expected)
                assert y.isfinite().all()
            assert meta(torch.empty(3, c_in, height, width, device="meta")).shape == (3, *expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients(variant, training):
    operator = build(variant, 6, 4, 2).double().train(training)
    parameters = dict(operator.named_parameters())
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return functional_call(operator, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    operator = build(variant, 12, 16)
    torch.nn.functional.normalize(operator(torch.randn(4, 12, 9, 9)).square(), dim=1).sum().backward()
    for name, parameter in operator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_is_near_float32(variant, dtype):
    operator = build(variant, 8, 12).eval()
    x = torch.randn(2, 8, 6, 6)
    exact = operator(x)
    with torch.autocast("cpu", dtype):
        y = operator(x)
    assert (y.float() - exact).norm() <= 0.03 * exact.norm()
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in operator.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_runs_are_bit_equal(variant):
    runs = []
    for _ in range(2):
        operator = build(variant, 12, 16, 2)
        y = operator(torch.randn(3, 12, 7, 7))
        y.square().sum().backward()
        runs.append([y, *(p.grad for p in operator.parameters()), *operator.buffers()])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_round_trip(variant, tmp_path):
    source = build(variant, 8, 12)
    source(torch.randn(2, 8, 5, 5))
    torch.save(source.state_dict(), tmp_path / "state.pt")
    target = build_operator(VARIANTS[variant][0], 8, 12, **VARIANTS[variant][1])
    x = torch.randn(2, 8, 5, 5)
    target.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert torch.equal(source.eval()(x), target.eval()(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_gives_the_same(variant):
    operator = build(variant, 8, 8, 2).eval()
    x = torch.randn(2, 8, 6, 5)
    y = operator(x.contiguous(memory_format=torch.channels_last))
    assert (y - operator(x)).norm() <= 1e-5 * y.norm()


@pytest.mark.parametrize("variant", VARIANTS)
def test_normalizes_says_what_the_output_is(variant):
    operator = build(variant, 8, 16)
    y = operator(7 + 30 * torch.randn(16, 8, 8, 8))
    mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)
    centred = (mean.abs() < 1e-4).all() and (std - 1).abs().max() < 0.05
    assert operator.normalizes == bool(centred)


class SideBySide(torch.nn.Module):
    def __init__(self, operators: list[torch.nn.Module]):
        super().__init__()
        self.operators = torch.nn.ModuleList(operators)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [operator(x) for operator in self.operators]


def test_compile_in_one_graph():
    """All operators at once: to compile them one by one takes twice as long."""
    torch.manual_seed(0)
    operators = SideBySide([build_operator(name, 4, 4) for name in OPERATORS]).eval()
    x = torch.randn(2, 4, 5, 5)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(operators, fullgraph=True)
        torch.testing.assert_close(compiled(x), operators(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", TRACED)
def test_traced_training_step_is_the_eager_one(variant):
    operator = build(variant, 6, 4, 2).double()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    tensors = [x, *operator.parameters()]
    torch._dynamo.reset()
    traced = torch.compile(operator, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        torch.autograd.grad(traced(x).square().sum(), tensors),
        torch.autograd.grad(operator(x).square().sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", TRACED)
def test_export_for_any_batch_with_pytorch_operations_only(variant):
    operator = build(variant, 6, 4, 2).eval()
    x = torch.randn(3, 6, 5, 4)
    exported = torch.export.export(operator, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    plain = exported.run_decompositions(kernels.decompositions())
    assert "opnas" not in str(plain.graph)
    # what compiles the graph takes the number of groups as fixed, and would compute other things for another batch
    convolutions = [node for node in plain.graph.nodes if "conv2d" in str(node.target)]
    assert all(not isinstance(group, torch.fx.Node) for node in convolutions for group in node.args[6:])
    for batch in (x, torch.randn(5, 6, 5, 4)):
        torch.testing.assert_close(exported.module()(batch), operator(batch))
        torch.testing.assert_close(plain.module()(batch), operator(batch), rtol=1e-4, atol=1e-5)


def counted_macs(operator: torch.nn.Module, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter:
        operator.eval().to("meta")(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() / 2


# c_in, c_out = 32, 32; map 14 x 14; stride 1: pixels = 196
MACS = {
    "conv": 196 * 9 * 32 * 32,
    "conv_grouped": 196 * 25 * 32 * 32 / 4,
    "conv_depthwise": 196 * 49 * 32,
    "involution": 196 * (32 * 8 + 8 * 49 * 2 + 49 * 32),
    "involution_dilated": 196 * (32 * 8 + 8 * 25 * 2 + 25 * 32),
    "involution_small": 196 * (32 * 16 + 16 * 9 * 8 + 9 * 32),
    "odconv": (196 + 4) * 9 * 32 * 32 + 16 * (2 * 32 + 32 + 9 + 4),
    "odconv_single": 196 * 9 * 32 * 16 + 16 * (2 * 32 + 32 + 9),
    "odconv_pointwise": (196 + 4) * 32 * 32 + 16 * (2 * 32 + 32 + 4),
    "odconv_depthwise": (196 + 2) * 9 * 32 + 16 * (2 * 32 + 9 + 2),
    "scconv": 9 * 16 * 16 * (3 * 196 + 9),
    "scconv_dilated": 9 * 16 * 16 * (3 * 196 + 49),
    "gnconv_2": 196 * (2 * 32**2 + 49 * 48 + 16 * 32 + 32**2),
    "gnconv_5": 196 * (2 * 32**2 + 49 * 62 + 2 * 4 + 4 * 8 + 8 * 16 + 16 * 32 + 32**2),
    "gnconv_global": 196 * (2 * 32**2 + 9 * 28 + 8 * 16 + 16 * 32 + 32**2)
    + 28 * (5 * 196 * math.log2(196) + 6 * 14 * 8) / 2,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_macs_are_those_of_the_formula(variant):
    assert counted_macs(build(variant, 32, 32), 32, 14, 14) == pytest.approx(MACS[variant], abs=1)


def test_macs_with_stride_and_other_widths():
    assert counted_macs(build("conv", 8, 24, 2), 8, 7, 7) == 16 * 9 * 8 * 24
    assert counted_macs(build("involution", 16, 32, 2), 16, 7, 7) == 16 * (16 * 4 + 4 * 49 + 49 * 16 + 16 * 32)
    assert counted_macs(build("involution", 32, 16, 2), 32, 7, 7) == 49 * 32 * 16 + 16 * (16 * 4 + 4 * 49 + 49 * 16)
    assert counted_macs(build("scconv", 16, 32, 2), 16, 8, 8) == 9 * 64 * (16 + 4 + 64 + 16) + 16 * 16 * 32
    assert counted_macs(build("gnconv_2", 16, 32, 2), 16, 7, 7) == 16 * (2 * 256 + 49 * 24 + 8 * 16 + 16 * 32)


def test_plain_and_calibrated_half_stand_in_this_order():
    operator = build("scconv", 8, 8).eval()
    x = torch.randn(2, 8, 8, 8)
    changed = x.clone()
    changed[:, :4] += 1
    y, z = operator(x), operator(changed)
    assert torch.equal(y[:, 4:], z[:, 4:])
    assert not torch.equal(y[:, :4], z[:, :4])


def test_dynamic_kernels_train_at_batch_one_on_running_statistics():
    operator = build("odconv", 8, 8)
    before = {key: value.clone() for key, value in operator.state_dict().items()}
    x = torch.randn(1, 8, 5, 5)
    y = operator.train()(x)
    assert all(torch.equal(value, before[key]) for key, value in operator.state_dict().items())
    assert torch.equal(y, operator.eval()(x))


def test_temperature_flattens_the_attention():
    operator = build("odconv", 8, 8).eval()
    assert isinstance(operator, ODConv2d) and operator.temperature == 1.0
    channel, _, _, kernel = operator.attention(torch.randn(2, 8, 5, 5), 1e6)
    torch.testing.assert_close(channel, torch.full((2, 8), 0.5))
    torch.testing.assert_close(kernel, torch.full((2, 4), 0.25))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_high_order_stays_finite_in_half_precision(dtype):
    operator = build("gnconv_5", 64, 64).eval()
    for module in operator.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    x = 10 * torch.randn(2, 64, 14, 14)
    exact = operator(x)
    with torch.autocast("cpu", dtype):
        y = operator(x)
        y.float().abs().mean().backward()
    assert exact.abs().max() > torch.finfo(torch.float16).max / 100
    assert y.isfinite().all()
    assert (y.float() - exact).norm() <= 0.05 * exact.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in operator.parameters())


@pytest.mark.parametrize(("channels", "width"), [(8, 8), (16, 16), (24, 12), (40, 10), (48, 16), (17, 1)])
def test_involution_group_rule(channels, width):
    assert Involution2d(channels).groups == channels // width


def test_large_weights_are_the_same_for_any_number_of_threads():
    """Drawn in pieces by several threads: N(0, std), reproducible, every piece with numbers of its own."""
    before, drawn = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        normal_(tensor := torch.empty(2, PIECE + 7), 0.5)
        drawn.append(tensor)
    torch.set_num_threads(before)
    assert torch.equal(*drawn)
    weights = drawn[0].double().view(-1)
    levels = torch.special.ndtr(weights.sort().values / 0.5)
    assert (levels - torch.linspace(0, 1, len(levels), dtype=torch.float64)).abs().max() < 0.003  # Kolmogorov-Smirnov
    for distance in (1, 4, PIECE):  # neighbours, numbers out of other random words, pieces
        assert abs((weights[distance:] * weights[:-distance]).mean()) < 0.25 * 0.008


def test_what_is_drawn_last_stays():
    """A network draws in the background what its paper then draws again, whole tensors and parts of them."""
    tensors = [torch.empty(8, PIECE // 4) for _ in range(6)]
    with drawing():
        for tensor in tensors:
            normal_(tensor, 9.0)
        for tensor in tensors:
            normal_(tensor[:3], 0.5)
            normal_(tensor[3:], 0.25)
    for tensor in tensors:
        assert tensor[:3].std() == pytest.approx(0.5, rel=0.02) and tensor[3:].std() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("convolution", 4, 4), {}, "operator = 'convolution'.*involution"),
        (("conv", 0, 4), {}, "in_channels = 0"),
        (("conv", 4, -1), {}, "out_channels = -1"),
        (("conv", 4, 4, 0), {}, "stride = 0"),
        (("conv", 4, 4), {"kernel": 3}, "kernel.*kernel_size"),
        (("involution", 4, 4), {"kernel_size": 4}, "kernel_size = 4.*odd"),
        (("odconv", 4, 4), {"num_kernels": 0}, "num_kernels = 0"),
        (("odconv", 4, 4), {"groups": "all"}, "groups"),
        (("scconv", 4, 4), {"pooling": 0}, "pooling = 0"),
        (("gnconv", 4, 4), {"order": 6}, "order = 6"),
        (("gnconv", 4, 4), {"filter": "global"}, "grid = None"),
    ],
)
def test_wrong_options(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        build_operator(*arguments, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Involution2d(16, 4), "kernel_size = 4"),
        (lambda: ODConv2d(6, 8, 3, groups=4), "groups = 4"),
        (lambda: GnConv2d(8, filter="fourier"), "filter = 'fourier'"),  # pyright: ignore[reportArgumentType]
        (lambda: GnConv2d(8, filter="global"), "grid = None"),
        (lambda: GlobalLocalFilter(1, (4, 3)), "channels = 1"),
    ],
)
def test_wrong_options_of_the_core_modules(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def _odconv(h):
    sizes = (h["in_planes"], h["out_planes"], h["kernel_size"], h["stride"], h["padding"], h["dilation"], h["groups"])
    module = ODConv2d(*sizes, num_kernels=h["kernel_num"], reduction=h["reduction"])
    module.temperature = h["temperature"]
    return module


RECORDED = {
    "involution_module": lambda h: Involution2d(
        h["channels"], h["kernel_size"], h["stride"], h["group_channels"], h["reduction"]
    ),
    "odconv2d": _odconv,
    "scconv": lambda h: SelfCalibratedConv2d(h["planes"], h["stride"], h["dilation"], h["groups"], h["pooling_r"]),
    "gnconv_7x7": lambda h: GnConv2d(h["dim"], h["order"], h["scale"]),
    "gnconv_gf": lambda h: GnConv2d(h["dim"], h["order"], h["scale"], "global", (h["h"], h["w"])),
    "global_local_filter": lambda h: GlobalLocalFilter(h["dim"], (h["h"], h["w"])),
}


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", [name for name, case in golden.CASES.items() if case["op"] in RECORDED])
def test_recorded_modules(name, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    case, data = golden.CASES[name], golden.load(name)
    module = RECORDED[case["op"]](case["hyperparameters"]).double().train(case["mode"] == "train")
    module.load_state_dict({key[3:]: value for key, value in data.items() if key.startswith("sd:")}, strict=True)
    x = data["input"].requires_grad_()
    y = module(x)
    y.backward(data["grad_output"])
    golden.near(y.detach(), data["output"], "output")
    assert x.grad is not None
    golden.near(x.grad, data["grad_input"], "grad_input")
    grads = {key[5:]: value for key, value in data.items() if key.startswith("grad:")}
    assert grads.keys() == dict(module.named_parameters()).keys()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None
        golden.near(parameter.grad, grads[key], key)
    state = module.state_dict()
    for key, value in data.items():
        if key.startswith("sd_after:"):
            golden.near(state[key.removeprefix("sd_after:")].double(), value.double(), key)


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", [name for name, case in golden.CASES.items() if case["op"] == "involution_op"])
def test_recorded_involutions(name, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    h, data = golden.CASES[name]["hyperparameters"], golden.load(name)
    x, weight = data["input"].requires_grad_(), data["kernel"].requires_grad_()
    y = kernels.involution(x, weight, tuple(h["stride"]), tuple(h["padding"]), tuple(h["dilation"]))
    y.backward(data["grad_output"])
    assert x.grad is not None and weight.grad is not None
    golden.near(y.detach(), data["output"], "output")
    golden.near(x.grad, data["grad_input"], "grad_input")
    golden.near(weight.grad, data["grad_kernel"], "grad_kernel")


def test_every_recorded_case_is_there():
    modules = [case for case in golden.CASES.values() if case["op"] != "whole_model"]
    assert len(modules) == 53 and len(golden.CASES) == 59


LAYERS = {Conv: 3, Involution: 7, ODConv: 3, SCConv: 3, GnConv: 7}
"""Operator from any width to any -> a kernel size that it takes."""


@pytest.mark.parametrize("layer", LAYERS)
def test_the_first_arguments_are_those_of_torch_nn(layer):
    """(in_channels, out_channels, kernel_size, stride, padding, dilation), as nn.Conv2d has them."""
    operator = layer(6, 10, LAYERS[layer], 2).eval()
    assert operator(torch.rand(2, 6, 9, 8)).shape == (2, 10, 5, 4)
    assert layer(6, 10)(torch.rand(2, 6, 9, 8)).shape == (2, 10, 9, 8)
    assert layer(6, 10, LAYERS[layer], 1, "same", 1)(torch.rand(2, 6, 9, 8)).shape == (2, 10, 9, 8)
    assert (operator.in_channels, operator.out_channels) == (6, 10)


@pytest.mark.parametrize("layer, allowed", [(SCConv, 3), (GnConv, 7)])
def test_a_kernel_size_that_an_operator_has_not_is_said(layer, allowed):
    with pytest.raises(ValueError, match=f"kernel_size = 5: allowed is {allowed}"):
        layer(8, 8, 5)
