"""Involution: values and derivatives against an independent float64 form, and what the operation promises PyTorch."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nas import kernels
from nas.kernels.involution import aten

LIMITS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}


def windows_form(x, weight, stride, padding, dilation):
    """Sum over strided views of the padded input."""
    (s0, s1), (p0, p1), (d0, d1) = stride, padding, dilation
    groups, kernel_h, kernel_w = weight.shape[1:4]
    x = F.pad(x, (p1, p1, p0, p0))
    x = x.unfold(2, d0 * (kernel_h - 1) + 1, s0).unfold(3, d1 * (kernel_w - 1) + 1, s1)[..., ::d0, ::d1]
    return torch.einsum("ngchwij,ngijhw->ngchw", x.unflatten(1, (groups, -1)), weight).flatten(1, 2)


def random_case(seed: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """x, weight and (stride, padding, dilation), in one of three layouts."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kernel, stride, dilation = ([rng.choice(options) for _ in "hw"] for options in ((1, 2, 3, 5, 7), (1, 2, 3), (1, 2)))
    padding = [rng.randrange(0, 2 + d * (k - 1)) for k, d in zip(kernel, dilation, strict=True)]
    reach = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [rng.randrange(low, low + 7) for low in reach]
    out = [
        (h + 2 * p - d * (k - 1) - 1) // s + 1
        for h, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    n, groups, width = rng.choice((1, 2, 3)), rng.choice((1, 2, 5)), rng.choice((1, 3, 4))
    x = torch.randn(n, groups * width, *size, dtype=dtype)
    if rng.random() < 0.4:
        x = x.contiguous(memory_format=torch.channels_last)
    elif rng.random() < 0.4:
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    weight = torch.randn(n, groups, *kernel, *out, dtype=dtype)
    return x, weight, (tuple(stride), tuple(padding), tuple(dilation))


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected).norm() / (expected.norm() + 1e-30)).item()


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("seed", range(40))
def test_values_and_gradients(seed, backend, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    dtype = list(LIMITS)[seed % 4]
    x, weight, geometry = random_case(seed, dtype)
    ours = [t.clone().requires_grad_() for t in (x, weight)]
    exact = [t.double().requires_grad_() for t in (x, weight)]
    y, z = kernels.involution(ours[0], ours[1], *geometry), windows_form(*exact, *geometry)
    assert y.dtype == dtype
    grad = torch.randn_like(y)
    y.backward(grad)
    z.backward(grad.double())
    assert distance(y.detach(), z.detach()) <= LIMITS[dtype]
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert mine.grad.dtype == dtype
        assert distance(mine.grad, theirs.grad) <= 2 * LIMITS[dtype]


@pytest.mark.parametrize("seed", range(100, 106))
def test_first_and_second_derivatives(seed):
    x, weight, geometry = random_case(seed)
    x, weight = x[:1, :, :5, :5].clone(), weight[:1]
    out = windows_form(x, torch.zeros(1, *weight.shape[1:4], 1, 1, dtype=x.dtype), *geometry).shape[2:]
    weight = torch.randn(*weight.shape[:4], *out, dtype=x.dtype)
    inputs = (x.requires_grad_(), weight.requires_grad_())

    def run(x, weight):
        return kernels.involution(x, weight, *geometry)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(("dtype", "one_rounding"), [(torch.bfloat16, 2.5e-3), (torch.float16, 3.2e-4)])
def test_half_precision_is_summed_in_float32(dtype, one_rounding):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 32, 9, 9, dtype=dtype), torch.randn(2, 2, 7, 7, 9, 9, dtype=dtype)
    ours = [t.clone().requires_grad_() for t in (x, weight)]
    exact = [t.double().requires_grad_() for t in (x, weight)]
    y, z = kernels.involution(ours[0], ours[1]), windows_form(exact[0], exact[1], (1, 1), (3, 3), (1, 1))
    assert distance(y.detach(), z.detach()) <= one_rounding
    grad = torch.randn_like(y)
    for mine, theirs in zip(
        torch.autograd.grad(y, ours, grad), torch.autograd.grad(z, exact, grad.double()), strict=True
    ):
        assert distance(mine, theirs) <= one_rounding


def test_only_the_gradients_asked_for():
    x, weight, geometry = random_case(3)
    for needs in ((True, False), (False, True)):
        inputs = [t.clone().requires_grad_(need) for t, need in zip((x, weight), needs, strict=True)]
        kernels.involution(inputs[0], inputs[1], *geometry).sum().backward()
        assert [t.grad is not None for t in inputs] == list(needs)


@pytest.mark.parametrize("seed", [0, 1, 2, 5])
def test_opcheck(seed):
    x, weight, geometry = random_case(seed)
    y = kernels.involution(x, weight, *geometry)
    ops = torch.ops.opnas
    torch.library.opcheck(ops.involution.default, (x.requires_grad_(), weight.requires_grad_(), *geometry))
    torch.library.opcheck(ops.involution_grad_input.default, (y, weight.detach(), list(x.shape[2:]), *geometry))
    torch.library.opcheck(
        ops.involution_grad_weight.default,
        (y, x.detach(), weight.shape[1], list(weight.shape[2:4]), *geometry, list(range(6))),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fake_and_meta_have_the_real_shape_strides_and_dtype(layout):
    x = torch.randn(2, 6, 5, 4).contiguous(memory_format=layout)
    weight = torch.randn(2, 3, 3, 3, 3, 2)
    real = kernels.involution(x, weight, 2)
    assert real.is_contiguous(memory_format=layout)
    with FakeTensorMode() as mode:
        fake = kernels.involution(mode.from_tensor(x), mode.from_tensor(weight), 2)
    meta = kernels.involution(x.to("meta"), weight.to("meta"), 2)
    for other in (fake, meta):
        assert (other.shape, other.stride(), other.dtype) == (real.shape, real.stride(), real.dtype)


def test_autocast_takes_its_dtype():
    x, weight, geometry = random_case(4, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y = kernels.involution(x.requires_grad_(), weight.to(dtype), *geometry)
        assert y.dtype == dtype
        (grad,) = torch.autograd.grad(y.float().sum(), x)
        assert grad.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype"):
        kernels.involution(x, weight.to(torch.bfloat16), *geometry)


class Allocations(TorchDispatchMode):
    """Names of the operations that run, and the bytes of the largest new memory block one of them returns."""

    def __init__(self, *given: torch.Tensor):
        super().__init__()
        self.given = {t.untyped_storage().data_ptr() for t in given}
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(str(func))
        for t in out if isinstance(out, tuple | list) else (out,):
            storage = t.untyped_storage()
            if storage.data_ptr() not in self.given:
                self.largest = max(self.largest, storage.nbytes())
        return out


def test_no_columns_are_made():
    x, weight = torch.randn(2, 32, 32, 32), torch.randn(2, 2, 7, 7, 32, 32)
    geometry = ((1, 1), (3, 3), (1, 1))
    input_bytes, weight_bytes = x.untyped_storage().nbytes(), weight.untyped_storage().nbytes()
    for run, limit in {
        lambda: aten.forward(x, weight, *geometry): 1.5 * input_bytes,
        lambda: aten.grad_input(x, weight, x.shape[2:], *geometry): 1.5 * input_bytes,
        lambda: aten.grad_weight(x, x, 2, (7, 7), *geometry): weight_bytes,
    }.items():
        with Allocations(x, weight) as seen:
            run()
        assert seen.largest <= limit
        assert not any("im2col" in name or "col2im" in name for name in seen.names)


@pytest.mark.parametrize(("backend", "columns"), [("auto", False), ("aten", False), ("reference", True)])
def test_the_forced_provider_runs(backend, columns, monkeypatch):
    monkeypatch.setenv("OPNAS_KERNELS", backend)
    x, weight = torch.randn(1, 4, 6, 6, requires_grad=True), torch.randn(1, 1, 3, 3, 6, 6, requires_grad=True)
    with torch.profiler.profile() as profile:
        kernels.involution(x, weight).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"opnas::involution", "opnas::involution_grad_input", "opnas::involution_grad_weight"} <= names
    assert ("aten::im2col" in names) == columns


def test_flops():
    x, weight = torch.randn(2, 8, 7, 6, requires_grad=True), torch.randn(2, 2, 3, 5, 4, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = kernels.involution(x, weight, 2)
        assert counter.get_total_flops() == 2 * 3 * 5 * y.numel()
        y.sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 3 * 5 * y.numel()


def test_empty_batch():
    y = kernels.involution(torch.randn(0, 4, 5, 5), torch.randn(0, 2, 3, 3, 5, 5))
    assert y.shape == (0, 4, 5, 5)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "words"),
    [
        ((2, 4, 5), (2, 2, 3, 3, 5, 5), "dimensions"),
        ((2, 4, 5, 5), (2, 2, 3, 3, 5, 4), "weight has shape"),
        ((2, 4, 5, 5), (1, 2, 3, 3, 5, 5), "weight has shape"),
        ((2, 4, 5, 5), (2, 3, 3, 3, 5, 5), "groups"),
    ],
)
def test_shapes_that_do_not_fit(x_shape, weight_shape, words):
    with pytest.raises(ValueError, match=words):
        kernels.involution(torch.randn(x_shape), torch.randn(weight_shape))
