"""The operations made of PyTorch's own: every provider against the formula, gradients, and which form runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nas import kernels
from nas.kernels.global_filter.aten import circulant, prefers_product
from nas.kernels.odconv2d import aten
from nas.kernels.operations import OPERATIONS
from nas.operators import GnConv2d

RELATIVE = 1e-12


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def by_sample(x, weight, channel, filter, spatial, kernel, **geometry):
    """Each sample on its own, each kernel on its own."""
    outputs = []
    for b, sample in enumerate(x):
        mixed = sum(k * w for k, w in zip(kernel[b], weight, strict=True)) * spatial[b].view(weight.shape[3:])
        y = F.conv2d((sample * channel[b, :, None, None])[None], mixed, **geometry)
        outputs.append(y * filter[b, :, None, None])
    return torch.cat(outputs)


def filter_by_full_transform(x, weight):
    """Inverse transform as two one-dimensional ones, the second real."""
    spectrum = torch.fft.fft(torch.fft.rfft(x, norm="ortho"), dim=2, norm="ortho") * torch.view_as_complex(weight)
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=2, norm="ortho"), n=x.shape[3], norm="ortho")


def nearest(x, small):
    rows, columns = (torch.arange(x.shape[a]) * small.shape[a] // x.shape[a] for a in (2, 3))
    return small[:, :, rows][:, :, :, columns]


def pixelwise(x, weight, bias=None):
    return F.linear(x.movedim(1, 3), weight[:, :, 0, 0], bias).movedim(3, 1)


CASES = {
    "depthwise": (
        (randn, [(2, 6, 7, 5), (6, 1, 3, 5), (6,)]),
        lambda x, w, b: kernels.depthwise_conv2d(x, w, b, 2, scale=0.3),
        lambda x, w, b: 0.3 * torch.cat([F.conv2d(x[:, [c]], w[[c]], b[[c]], 2, (1, 2)) for c in range(6)], 1),
    ),
    "depthwise_gated": (
        (randn, [(2, 6, 7, 5), (6, 1, 3, 5), (2, 4, 7, 5)]),
        lambda x, w, g: kernels.depthwise_conv2d(x, w, gate=g[:, :3]),
        lambda x, w, g: torch.cat(
            [F.conv2d(x[:, [c]], w[[c]], None, 1, (1, 2)) * (g[:, [c]] if c < 3 else 1) for c in range(6)], 1
        ),
    ),
    "conv2d": (
        (randn, [(2, 4, 6, 5), (6, 2, 3, 3), (6,), (6,), (6,)]),
        lambda x, w, b, s, t: kernels.conv2d(x, w, b, 2, 1, 1, 2, s, t, "silu"),
        lambda x, w, b, s, t: F.silu(F.conv2d(x, w, b, 2, 1, 1, 2) * s[:, None, None] + t[:, None, None]),
    ),
    "conv2d_residual": (
        (randn, [(2, 4, 6, 5), (6, 2, 3, 3), (6,), (2, 6, 3, 3)]),
        lambda x, w, t, r: kernels.conv2d(x, w, None, 2, 1, 1, 2, shift=t, activation="relu6", residual=r),
        lambda x, w, t, r: F.relu6(F.conv2d(x, w, None, 2, 1, 1, 2) + t[:, None, None] + r),
    ),
    "conv2d_shift_only": (
        (randn, [(2, 4, 6, 5), (6, 4, 3, 3), (6,)]),
        lambda x, w, t: kernels.conv2d(x, w, shift=t, activation="gelu"),
        lambda x, w, t: F.gelu(F.conv2d(x, w) + t[:, None, None]),
    ),
    "self_calibrated_gate": (
        (randn, [(2, 3, 14, 7), (2, 3, 14, 7), (2, 3, 3, 1)]),
        kernels.self_calibrated_gate,
        lambda x, k3, k2: k3 * torch.sigmoid(x + nearest(x, k2)),
    ),
    "gnconv_gate_first": ((randn, [(2, 3, 4, 5), (2, 3, 4, 5)]), kernels.gnconv_gate, lambda y, a: y * a),
    "gnconv_gate": (
        (randn, [(2, 3, 4, 5), (2, 6, 4, 5), (6, 3, 1, 1), (6,)]),
        kernels.gnconv_gate,
        lambda y, a, w, b: pixelwise(y, w, b) * a,
    ),
    "gnconv_recursion": (
        (randn, [(2, 3, 4, 5), (2, 9, 4, 5), (4, 3, 1, 1), (5, 4, 1, 1), (5,), (6, 5, 1, 1), (6,)]),
        lambda y, a, w, v, b, u, c: kernels.gnconv_recursion(y, a, (w, v), (None, b), u, c),
        lambda y, a, w, v, b, u, c: pixelwise(pixelwise(pixelwise(y, w) * a[:, :4], v, b) * a[:, 4:], u, c),
    ),
    "global_filter_even": (
        (randn, [(2, 3, 4, 6), (3, 4, 4, 2)]),
        kernels.global_filter,
        filter_by_full_transform,
    ),
    "global_filter_odd": (
        (randn, [(2, 3, 5, 7), (3, 5, 4, 2)]),
        kernels.global_filter,
        filter_by_full_transform,
    ),
    "global_filter_even_by_product": (
        (randn, [(4, 2, 4, 6), (2, 4, 4, 2)]),
        kernels.global_filter,
        filter_by_full_transform,
    ),
    "global_filter_odd_by_product": (
        (randn, [(3, 2, 5, 3), (2, 5, 2, 2)]),
        kernels.global_filter,
        filter_by_full_transform,
    ),
    "global_filter_pixel": ((randn, [(2, 3, 1, 1), (3, 1, 1, 2)]), kernels.global_filter, filter_by_full_transform),
    "spanned_involution": (
        (randn, [(2, 6, 5, 4), (2, 3, 3, 2), (18, 3, 1, 1), (18,)]),
        lambda x, f, w, b: kernels.spanned_involution(x, f, w, b, (3, 1), 2),
        lambda x, f, w, b: kernels.involution(x, F.conv2d(f, w, b).view(2, 6, 3, 1, 3, 2), 2),
    ),
    "odconv2d_wide": (
        (randn, [(2, 4, 4, 3), (2, 16, 4, 3, 3), (2, 4), (2, 16), (2, 9), (2, 2)]),
        lambda *t: kernels.odconv2d(*t, stride=2, padding=1),
        lambda *t: by_sample(*t, stride=2, padding=1),
    ),
    "odconv2d_large_map": (
        (randn, [(2, 4, 7, 6), (3, 4, 4, 3, 3), (2, 4), (2, 4), (2, 9), (2, 3)]),
        lambda *t: kernels.odconv2d(*t, padding=2, dilation=2),
        lambda *t: by_sample(*t, padding=2, dilation=2),
    ),
    "odconv2d_grouped": (
        (randn, [(2, 4, 3, 3), (2, 8, 2, 3, 3), (2, 4), (2, 8), (2, 9), (2, 2)]),
        lambda *t: kernels.odconv2d(*t, groups=2),
        lambda *t: by_sample(*t, groups=2),
    ),
}


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    torch.manual_seed(0)
    (make, shapes), ours, formula = CASES[name]
    tensors = [make(*shape) for shape in shapes]
    y, z = ours(*tensors), formula(*tensors)
    grad = torch.randn_like(z)
    assert (y - z).norm() <= RELATIVE * z.norm()
    for mine, theirs in zip(torch.autograd.grad(y, tensors, grad), torch.autograd.grad(z, tensors, grad), strict=True):
        assert (mine - theirs).norm() <= RELATIVE * theirs.norm()


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name):
    torch.manual_seed(0)
    (make, shapes), ours, _ = CASES[name]
    assert torch.autograd.gradgradcheck(ours, [make(*shape) for shape in shapes], fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_meta_has_the_shape(name):
    (make, shapes), ours, _ = CASES[name]
    real, meta = ([make(*shape).to(device) for shape in shapes] for device in ("cpu", "meta"))
    assert ours(*meta).shape == ours(*real).shape


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("channels", [8, 10])
def test_gnconv_gates_inside_the_window_without_gradients(channels, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    torch.manual_seed(0)
    module, x = GnConv2d(channels).double(), torch.randn(2, channels, 5, 4, dtype=torch.float64)
    kept = x.clone()
    with torch.no_grad():
        y = module(x)
    assert (y - module(x)).norm() <= RELATIVE * y.norm() and torch.equal(x, kept)


@pytest.mark.parametrize("num_kernels", [1, 4])
def test_odconv_forms_agree(num_kernels):
    torch.manual_seed(0)
    x, weight, spatial = randn(3, 5, 6, 4), randn(num_kernels, 7, 5, 3, 3), randn(3, 1, 1, 1, 3, 3)
    kernel = randn(3, num_kernels, 1, 1, 1, 1) if num_kernels > 1 else None
    geometry = ((2, 1), (1, 1), (1, 1), 1)
    one, other = (form(x, weight, spatial, kernel, *geometry) for form in (aten.mixed, aten.n_fold))
    assert (one - other).norm() <= RELATIVE * one.norm()


def test_odconv_form_is_chosen_by_size():
    def flops(n: int, c: int, size: int) -> float:
        x, weight, kernel = torch.randn(n, c, size, size), torch.randn(4, c, c, 3, 3), torch.randn(n, 4)
        with FlopCounterMode(display=False) as counter:
            kernels.odconv2d(x, weight, kernel=kernel, padding=1)
        return counter.get_total_flops() / (2 * 9 * c * c)

    assert flops(1, 64, 4) == 4**2 + 4
    assert flops(2, 64, 4) == 2 * 4 * 4**2
    assert flops(2, 64, 8) == 2 * (8**2 + 4)


def test_odconv_makes_no_kernels_times_samples_tensor():
    x, weight = torch.randn(8, 16, 14, 14, requires_grad=True), torch.randn(8, 16, 16, 3, 3, requires_grad=True)
    kernel = torch.rand(8, 8, requires_grad=True)
    with torch.profiler.profile(record_shapes=True) as profile:
        kernels.odconv2d(x, weight, kernel=kernel, padding=1).sum().backward()
    events = profile.events() or []
    sizes = [torch.Size(shape).numel() for event in events for shape in event.input_shapes or [] if shape]
    assert max(sizes) < len(x) * weight.numel()


@pytest.mark.parametrize("images", [2, 10])  # by FFT, by product
def test_global_filter_is_float32_in_half_precision(images):
    torch.manual_seed(0)
    x, weight = torch.randn(images, 4, 7, 7), torch.randn(4, 7, 4, 2)
    exact = kernels.global_filter(x.bfloat16().double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = kernels.global_filter(x.bfloat16(), weight)
        torch.testing.assert_close(kernels.global_filter(x.bfloat16().float(), weight), exact.float())
    assert y.dtype == torch.bfloat16
    assert (y.double() - exact).norm() <= 3e-3 * exact.norm()
    assert kernels.global_filter(x.double(), weight).dtype == torch.float64


def test_the_global_filter_takes_the_cheaper_form():
    """By product as the cases that say so, by FFT on large maps and where few images would share the matrices."""
    shapes = {(4, 2, 4, 6): True, (3, 2, 5, 3): True, (2, 3, 4, 6): False, (500, 1, 17, 16): False, (0, 1, 2, 2): False}
    assert {s: prefers_product("cpu", torch.Size(s)) for s in shapes} == shapes
    of_gpu = {(128, 240, 14, 14): True, (90, 240, 14, 14): False, (1, 1, 7, 7): False, (200, 1, 17, 16): False}
    assert {s: prefers_product("cuda", torch.Size(s)) for s in of_gpu} == of_gpu


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_global_filter_opcheck_and_flops(size):
    x, weight = torch.randn(2, 3, *size, requires_grad=True), torch.randn(3, size[0], size[1] // 2 + 1, 2)
    torch.library.opcheck(torch.ops.opnas.global_filter.default, (x, weight.requires_grad_(), None, False))
    torch.library.opcheck(torch.ops.opnas.global_filter_grad_weight.default, (x.detach(), x.detach(), False))
    last = x.detach().contiguous(memory_format=torch.channels_last)
    matrices = circulant(weight.detach(), *size)
    torch.library.opcheck(torch.ops.opnas.global_filter.default, (last, weight, matrices, False))
    many = x.detach().repeat(4, 1, 1, 1)
    torch.testing.assert_close(kernels.global_filter(many, weight, matrices), kernels.global_filter(many, weight))
    torch.testing.assert_close(kernels.global_filter(many, 0 * weight, matrices), kernels.global_filter(many, weight))
    with FlopCounterMode(display=False) as counter:
        kernels.global_filter(x, weight)
    n = size[0] * size[1]
    log = torch.log2(torch.tensor(float(n), dtype=torch.float64)).item()
    assert counter.get_total_flops() == pytest.approx(6 * (5 * n * log + 6 * size[0] * (size[1] // 2 + 1)), abs=1)


def test_wrong_options():
    with pytest.raises(ValueError, match="activation = 'swish'"):
        kernels.conv2d(torch.randn(1, 1, 3, 3), torch.randn(1, 1, 1, 1), activation="swish")
    with pytest.raises(ValueError, match="weight has shape"):
        kernels.global_filter(torch.randn(1, 2, 4, 4), torch.randn(2, 4, 4, 2))
    with pytest.raises(ValueError, match=r"matrices has shape \[2, 16, 9\]: allowed is \[2, 16, 16\]"):
        kernels.global_filter(torch.randn(1, 2, 4, 4), torch.randn(2, 4, 3, 2), torch.randn(2, 16, 9))


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        ("odconv2d", [(2, 4, 5, 6), (3, 8, 2, 1, 1)], r"\[3, 8, 2, 1, 1\]: allowed is \[n, 1 m, 4, Kh, Kw\] for x of"),
        ("odconv2d", [(2, 4, 5, 6), (8, 4, 1, 1)], "x has 4 and weight 4 dimensions: allowed are 4 and 5"),
        ("odconv2d", [(2, 4, 5, 6), (3, 8, 4, 1, 1), (2, 3)], r"channel has shape \[2, 3\]: allowed is \[2, 4\]"),
        ("odconv2d", [(0, 4, 5, 6), (3, 8, 4, 1, 1), (1, 4)], r"channel has shape \[1, 4\]: allowed is \[0, 4\]"),
        ("depthwise_conv2d", [(2, 4, 5, 6), (3, 1, 3, 3)], r"weight has shape \[3, 1, 3, 3\].*x of \[2, 4, 5, 6\]"),
        ("gnconv_gate", [(2, 4, 5, 6), (2, 4, 5, 5)], r"a has shape \[2, 4, 5, 5\].*for y of \[2, 4, 5, 6\]"),
        ("self_calibrated_gate", [(2, 4, 5, 6), (2, 4, 5, 6), (2, 3, 1, 1)], r"k2 has shape \[2, 3, 1, 1\]"),
        ("spanned_involution", [(2, 4, 5, 6), (2, 3, 5, 5), (9, 3, 1, 1)], r"features has shape \[2, 3, 5, 5\]"),
    ],
)
def test_operands_that_do_not_fit(op, shapes, message):
    with pytest.raises(ValueError, match=message):
        getattr(kernels, op)(*map(torch.randn, shapes))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"weight": (4, 3, 3, 3)},
            r"weight has shape \[4, 3, 3, 3\]: allowed is \[2 m, 2, Kh, Kw\] for x of \[1, 4, 5, 6\]",
        ),
        ({"weight": (5, 2, 3, 3)}, r"weight has shape \[5, 2, 3, 3\]"),
        ({"x": (4, 5, 6)}, "x has 3 and weight 4 dimensions"),
        ({"scale": (3,)}, r"scale has shape \[3\]: allowed is \[4\] for weight \[4, 2, 3, 3\]"),
        ({"residual": (1, 4, 5, 6)}, r"residual has shape \[1, 4, 5, 6\]: allowed is \[1, 4, 3, 4\]"),
    ],
)
def test_convolutions_that_do_not_fit(changed, message):
    shapes = {"x": (1, 4, 5, 6), "weight": (4, 2, 3, 3), "scale": (4,), "residual": (1, 4, 3, 4)} | changed
    x, weight, scale, residual = (torch.randn(shape) for shape in shapes.values())
    with pytest.raises(ValueError, match=message):
        kernels.conv2d(x, weight, groups=2, scale=scale, residual=residual)


ARGUMENTS = {
    "involution": lambda: (torch.ones(1, 2, 3, 3), torch.ones(1, 1, 3, 3, 3, 3)),
    "depthwise_conv2d": lambda: (torch.ones(1, 2, 3, 3), torch.ones(2, 1, 3, 3)),
    "spanned_involution": lambda: (torch.ones(1, 2, 3, 3), torch.ones(1, 1, 3, 3), torch.ones(9, 1, 1, 1)),
    "odconv2d": lambda: (torch.ones(1, 2, 3, 3), torch.ones(1, 2, 2, 1, 1)),
    "self_calibrated_gate": lambda: (torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), torch.ones(1, 2, 1, 1)),
    "gnconv_gate": lambda: (torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), torch.ones(2, 2, 1, 1)),
    "gnconv_recursion": lambda: (
        torch.ones(1, 2, 3, 3),
        torch.ones(1, 2, 3, 3),
        [torch.ones(2, 2, 1, 1)],
        [None],
        torch.ones(2, 2, 1, 1),
    ),
    "global_filter": lambda: (torch.ones(1, 2, 3, 3), torch.ones(2, 3, 2, 2)),
    "conv2d": lambda: (torch.ones(1, 2, 3, 3), torch.ones(2, 2, 1, 1)),
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_dispatch(op, monkeypatch):
    run, arguments = getattr(kernels, op), ARGUMENTS[op]()
    monkeypatch.delenv("OPNAS_KERNELS", raising=False)
    assert kernels.explain(op).provider == "aten"
    expected = run(*arguments)
    monkeypatch.setenv("OPNAS_KERNELS", "reference")
    assert kernels.explain(op).provider == "reference"
    assert "reference" in kernels.explain(op).reason
    torch.testing.assert_close(run(*arguments), expected)
    monkeypatch.setenv("OPNAS_KERNELS", "triton")
    for call in (lambda: run(*arguments), lambda: kernels.explain(op)):
        ours = "triton" in OPERATIONS[op].providers
        why = f"{op} cannot run so: .*TRITON_INTERPRET=1" if ours else f"no triton provider for {op}"
        with pytest.raises(RuntimeError, match=why):
            call()
    monkeypatch.setenv("OPNAS_KERNELS", "fast")
    with pytest.raises(ValueError, match="OPNAS_KERNELS = 'fast'"):
        run(*arguments)


def test_one_operation_by_another_provider(monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", "reference,global_filter=aten,involution=auto")
    chosen = {op: kernels.explain(op).provider for op in ("conv2d", "global_filter", "involution")}
    assert chosen == {"conv2d": "reference", "global_filter": "aten", "involution": "aten"}
    for wrong, named in {
        "aten,conv=triton": "no operation 'conv'; there are involution",
        "aten,conv2d": "op=one",
    }.items():
        monkeypatch.setenv("OPNAS_KERNELS", wrong)
        with pytest.raises(ValueError, match=named):
            kernels.explain("conv2d")


def test_explain_names_the_known_operations():
    with pytest.raises(ValueError, match=r"op = 'matmul'.*involution"):
        kernels.explain("matmul")
