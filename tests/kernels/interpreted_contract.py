"""What every operation with a Triton kernel promises PyTorch, under the interpreter; see interpreted_kernels.py.

Derivatives, strides of fakes, one compiled graph and one exported program of all, autocast, empty batches, any layout,
the same bits twice, offsets past 2^31.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from kernel_fuzz import backend, distance
from memory_checker import checked
from torch._dynamo.testing import CompileCounterWithBackend

from nas import kernels
from nas.kernels import operations
from nas.kernels._core.launch import MAX_OFFSET, interpreted

Make = Callable[[int, torch.dtype], list[torch.Tensor]]


@dataclass(frozen=True)
class Operation:
    """Tensors for n images, which of them are per image, the public call, the arguments of the registered operation."""

    make: Make
    per_image: tuple[int, ...]
    call: Callable[..., torch.Tensor]
    registered: Callable[..., tuple]


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def shaped(*shapes: Callable[[int], tuple[int, ...]]) -> Make:
    return lambda n, dtype: [randn(*shape(n), dtype=dtype) for shape in shapes]


OPERATIONS = {
    "conv2d": Operation(
        shaped(lambda n: (n, 2, 3, 5), lambda n: (4, 1, 1, 3), *(lambda n: (4,),) * 3, lambda n: (n, 4, 3, 5)),
        (0, 5),
        lambda x, w, b, s, t, r: kernels.conv2d(x, w, b, 1, (0, 1), 1, 2, s, t, "silu", r),
        lambda x, w, b, s, t, r: (x, w, b, s, t, r, (1, 1), (0, 1), (1, 1), 2, "gelu"),
    ),
    "depthwise_conv2d": Operation(
        shaped(lambda n: (n, 2, 2, 3), lambda n: (2, 1, 1, 3), lambda n: (2,), lambda n: (n, 1, 2, 3)),
        (0, 3),
        lambda x, w, b, g: kernels.depthwise_conv2d(x, w, b, scale=0.5, gate=g),
        lambda x, w, b, g: (x, w, b, g, (1, 1), (0, 1), 0.5),
    ),
    "involution": Operation(
        shaped(lambda n: (n, 4, 2, 3), lambda n: (n, 2, 3, 1, 2, 3)),
        (0, 1),
        kernels.involution,
        lambda x, w: (x, w, (1, 1), (1, 0), (1, 1)),
    ),
    "spanned_involution": Operation(
        shaped(lambda n: (n, 4, 2, 3), lambda n: (n, 3, 2, 3), lambda n: (6, 3, 1, 1), lambda n: (6,)),
        (0, 1),
        lambda x, f, w, b: kernels.spanned_involution(x, f, w, b, (3, 1)),
        lambda x, f, w, b: (x, f, w, b, (3, 1), (1, 1), (1, 0), (1, 1)),
    ),
    "odconv2d": Operation(
        shaped(lambda n: (n, 2, 2, 3), lambda n: (2, 3, 2, 1, 3), *(lambda n, c=c: (n, c) for c in (2, 3, 3, 2))),
        (0, 2, 3, 4, 5),
        lambda x, w, *factors: kernels.odconv2d(x, w, *factors, padding=(0, 1), form="mixed"),
        lambda x, w, *_: (x, w[:1], (1, 1), (0, 1), (1, 1), 1),
    ),
    "odconv2d_n_fold": Operation(
        shaped(lambda n: (n, 2, 2, 3), lambda n: (2, 3, 2, 1, 3), *(lambda n, c=c: (n, c) for c in (2, 3, 3, 2))),
        (0, 2, 3, 4, 5),
        lambda x, w, *factors: kernels.odconv2d(x, w, *factors, padding=(0, 1), form="n_fold"),
        lambda x, w, channel, filter, spatial, kernel: (x, w, spatial.view(-1, 1, 3), kernel, (1, 1), (0, 1), (1, 1)),
    ),
    "self_calibrated_gate": Operation(
        shaped(lambda n: (n, 2, 3, 5), lambda n: (n, 2, 3, 5), lambda n: (n, 2, 1, 2)),
        (0, 1, 2),
        kernels.self_calibrated_gate,
        lambda *tensors: tensors,
    ),
    "gnconv_gate": Operation(
        shaped(lambda n: (n, 2, 2, 3), lambda n: (n, 3, 2, 3), lambda n: (3, 2, 1, 1), lambda n: (3,)),
        (0, 1),
        kernels.gnconv_gate,
        lambda *tensors: tensors,
    ),
    "gnconv_recursion": Operation(
        shaped(
            *(lambda n, c=c: (n, c, 2, 3) for c in (2, 7)),
            *(lambda n, s=s: s for s in ((3, 2, 1, 1), (3,), (4, 3, 1, 1), (4,), (5, 4, 1, 1), (5,))),
        ),
        (0, 1),
        lambda y, a, w1, b1, w2, b2, w, b: kernels.gnconv_recursion(y, a, (w1, w2), (b1, b2), w, b),
        lambda y, a, w1, b1, w2, b2, w, b: (y, a, w, b, w1, b1, w2, b2, *(None,) * 4),
    ),
    "global_filter": Operation(
        shaped(lambda n: (n, 3, 2, 3), lambda n: (3, 2, 2, 2)),
        (0,),
        kernels.global_filter,
        lambda x, w: (x, w, None, True),
    ),
}
LAUNCHES = {
    *{"window_sum", "window_partials", "window_product", "gated_product", "recursive_gates", "spanned_window_sum"},
    *{
        "convolution_product",
        "sampled_outer",
        "mixed_kernels",
        "mixing_gradients",
        "calibrated_gate",
        "folded_product",
        "folded_outer",
    },
    *("filtered_maps", "filter_gradient"),
}
# the dtype of a map that autocast leaves as it is
KEPT = ("gnconv_gate", "self_calibrated_gate", "global_filter")
LIMIT = 2e-6  # relative, float32


@pytest.fixture(autouse=True)
def triton_alone(monkeypatch):
    """Forces our kernels; PyTorch fills new memory with NaN and refuses what does not repeat bit by bit."""
    assert interpreted()
    monkeypatch.setenv("OPNAS_KERNELS", "triton")
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def values(operation: Operation, tensors: list[torch.Tensor], name: str = "triton") -> list[torch.Tensor]:
    """Result and all gradients of its sum with fixed factors, by a provider."""
    given = [t.detach().requires_grad_() for t in tensors]
    with backend(name):
        y = operation.call(*given)
        factors = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
        return [y.detach(), *torch.autograd.grad(y, given, factors)]


def agree(mine: list[torch.Tensor], theirs: list[torch.Tensor], limit: float) -> None:
    for ours, other in zip(mine, theirs, strict=True):
        assert ours.shape == other.shape and distance(ours, other.double()) <= limit


def test_every_kernel_is_here():
    ours = {name for name, operation in operations.OPERATIONS.items() if "triton" in operation.providers}
    assert set(OPERATIONS) == ours | {"odconv2d_n_fold"}  # ODConv's other form


@pytest.mark.parametrize("op", OPERATIONS)
def test_second_derivatives(op):
    tensors = OPERATIONS[op].make(1, torch.float64)

    def twice(name: str) -> tuple[torch.Tensor, ...]:
        with backend(name):
            y = OPERATIONS[op].call(*tensors)
            first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
            return torch.autograd.grad([g.square().sum() for g in first], tensors)

    with checked() as watch:
        found = twice("triton")
    assert watch.launches
    agree(list(found), list(twice("reference")), 1e-12)


@pytest.mark.parametrize("op", OPERATIONS)
def test_opcheck(op):
    operation = OPERATIONS[op]
    x, *others = operation.make(1, torch.float32)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    registered = getattr(torch.ops.opnas, op).default
    torch.library.opcheck(registered, operation.registered(x, *others), test_utils=tests)


def test_gradient_operations_pass_opcheck():
    grad, x = (torch.randn(1, 2, k, k).contiguous(memory_format=torch.channels_last) for k in (1, 2))
    ops, geometry = torch.ops.opnas, ((2, 2), (0, 0), (1, 1))
    depthwise, weight = (geometry[0], geometry[1], 0.5), torch.randn(1, 2, 2, 2, 1, 1)
    kernel_of_one = torch.randn(1, 2, 2, 2, 2)
    of_samples = (torch.randn(1, 2, 2), torch.randn(1, 3))
    mixing = (torch.randn(2, 4, 5), torch.randn(3, 2), torch.randn(3, 4), torch.randn(3, 5))
    tests = ("test_schema", "test_faketensor")
    for op, arguments in {
        ops.depthwise_conv2d_grad_input: (grad, torch.randn(2, 1, 2, 2), [2, 2], *depthwise),
        ops.depthwise_conv2d_grad_weight: (grad, x, [2, 2], *depthwise),
        ops.odconv2d_grad_input: (grad, kernel_of_one, [2, 2], *geometry, 1),
        ops.odconv2d_grad_weight: (grad, x, [2, 2], *geometry, 1),
        ops.odconv2d_n_fold_grads: (grad, x, torch.randn(3, 2, 2, 2, 2), *of_samples, *geometry),
        ops.odconv2d_n_fold_grad_weight: (grad, x, [2, 2], *of_samples, *geometry),
        ops.odconv2d_kernels: mixing,
        ops.odconv2d_kernels_grads: (torch.randn(3, 4, 5), *mixing),
        ops.involution_grad_input: (grad, weight, [2, 2], *geometry),
        ops.self_calibrated_gate_grads: (x, x, x, grad),
        ops.global_filter_grad_weight: (x, x, True),
        ops.involution_grad_weight: (grad, x, 2, [2, 2], *geometry, [0, 4, 5, 3, 2, 1]),
    }.items():
        torch.library.opcheck(op.default, arguments, test_utils=tests)


def test_one_compiled_graph_of_all_for_all_batches():
    counter = CompileCounterWithBackend("aot_eager")

    def run(*tensors):
        given, results = iter(tensors), []
        for operation, count in zip(OPERATIONS.values(), counts, strict=True):
            results.append(operation.call(*(next(given) for _ in range(count))))
        return results

    counts = [len(operation.make(1, torch.float32)) for operation in OPERATIONS.values()]
    compiled = torch.compile(run, fullgraph=True, backend=counter)
    found, given = [], []
    for n in (2, 3):
        given = []
        for operation in OPERATIONS.values():
            tensors = operation.make(n, torch.float32)
            for i in operation.per_image:
                torch._dynamo.mark_dynamic(tensors[i], 0)
            given += tensors
        with checked() as watch:
            results = compiled(*given)
            found = [*results, *torch.autograd.grad([y.sum() for y in results], given)]
        assert set(watch.launches) == LAUNCHES
    with backend("reference"):
        results = run(*given)
        expected = [*results, *torch.autograd.grad([y.sum() for y in results], given)]
    agree([t.detach() for t in found], [t.detach() for t in expected], LIMIT)
    assert counter.frame_count == 1


def test_exported_programs_keep_the_operations():
    class Net(torch.nn.Module):
        def forward(self, *tensors):
            given = iter(tensors)
            return [op.call(*(next(given) for _ in op.make(1, torch.float32))) for op in OPERATIONS.values()]

    inputs = tuple(t.detach() for op in OPERATIONS.values() for t in op.make(1, torch.float32))
    program = torch.export.export(Net(), inputs)
    names = {str(node.target) for node in program.graph.nodes}
    assert {f"opnas.{op}.default" for op in OPERATIONS} <= names
    torch.testing.assert_close(program.module()(*inputs), Net()(*inputs))


@pytest.mark.parametrize("op", OPERATIONS)
def test_autocast(op):
    """16-bit results; gradients in the dtype of what they belong to."""
    operation = OPERATIONS[op]
    tensors = operation.make(2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), checked() as watch:
        found = values(operation, tensors)
    assert watch.launches and [t.dtype for t in found[1:]] == [torch.float32] * len(tensors)
    exact = values(operation, [t.detach().double() for t in tensors], "reference")
    assert found[0].dtype == (torch.float32 if op in KEPT else torch.bfloat16)
    agree(found, exact, 2e-2)


@pytest.mark.parametrize("op", OPERATIONS)
def test_any_layout_and_the_same_bits_twice(op):
    """A transposed map and slices of wider ones: the values of the reference, channels_last, the same at every run."""
    operation = OPERATIONS[op]
    tensors = operation.make(2, torch.float32)
    first, *others = (t.detach() for t in tensors)
    given = [first.transpose(2, 3).contiguous().transpose(2, 3)]
    given += [channels_slice(t) if t.dim() == 4 else t for t in others]
    with checked() as watch:
        found = values(operation, given)
    assert watch.launches and found[0].is_contiguous(memory_format=torch.channels_last)
    agree(found, values(operation, tensors, "reference"), LIMIT)
    for once, again in zip(found, values(operation, given), strict=True):
        assert torch.equal(once, again)


def channels_slice(t: torch.Tensor) -> torch.Tensor:
    wide = torch.randn(t.shape[0], *t.shape[2:], t.shape[1] + 3)
    wide[..., 2 : 2 + t.shape[1]] = t.permute(0, 2, 3, 1)
    return wide.permute(0, 3, 1, 2)[:, 2 : 2 + t.shape[1]]


@pytest.mark.parametrize("op", OPERATIONS)
def test_empty_batches(op):
    tensors = OPERATIONS[op].make(0, torch.float32)
    y, *grads = values(OPERATIONS[op], tensors)
    assert y.shape[0] == 0 and not any(g.any() for g in grads)
    assert [g.shape for g in grads] == [t.shape for t in tensors]


@pytest.mark.parametrize("op", OPERATIONS)
def test_images_that_lie_past_2_to_the_31(op):
    """All maps with 2^31 elements and more from image to image; pages that nobody touches take no memory."""
    operation = OPERATIONS[op]
    torch.use_deterministic_algorithms(False)  # it would write to all of the memory
    tensors = operation.make(2, torch.float16)
    storage = torch.empty(MAX_OFFSET + 4096, dtype=torch.float16)
    far = [t.detach() for t in tensors]
    for number, i in enumerate(operation.per_image):
        t = far[i].movedim(1, -1).contiguous().movedim(-1, 1)
        start = storage[number * 256 :]
        far[i] = start.as_strided(t.shape, (MAX_OFFSET, *t.stride()[1:])).copy_(t)
    with checked() as watch:
        found = values(operation, far)
    assert watch.launches
    agree(found, values(operation, [t.detach().double() for t in tensors], "reference"), 2e-3)


def test_contiguous_maps_are_converted_once():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    y = kernels.depthwise_conv2d(x, weight)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    for given, copies in ((x, 1), (y, 0), (y[:, 1:3], 0)):
        with torch.profiler.profile() as profile:
            kernels.depthwise_conv2d(given, weight[: given.shape[1]])
        assert sum(event.count for event in profile.key_averages() if event.key == "aten::clone") == copies
