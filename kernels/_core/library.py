"""How an operation of two tensors enters PyTorch: schema, fake, autograd, autocast and FLOP formula in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from .imports import when_imported

LIBRARY = torch.library.Library("opnas", "DEF")
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def register(
    schema: str, run: Callable, fake: Callable, flops: Callable, backward: Callable | None = None, num_tensors: int = 2
):
    """Define `opnas::<schema>` and return the callable operation.

    The first `num_tensors` arguments are tensors or None, the others plain options. `run` computes on CPU and CUDA,
    `fake` gives shape, dtype and strides of the result, `flops` counts from shapes. `backward(grad, *tensors, needs,
    *options)` returns the gradients of the tensors; without it the operation is not differentiable.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"opnas::{name}", fake, lib=LIBRARY)
    packet = getattr(torch.ops.opnas, name)
    # the counter imports triton, which takes longer than all of ours
    when_imported("torch.utils.flop_counter", lambda counter: counter.register_flop_formula(packet)(flops))
    if backward is not None:
        LIBRARY.impl(name, _autograd_kernel(packet.default, backward, num_tensors), "Autograd")
    return packet.default


def register_autocast(op, name: str) -> None:
    """Let autocast bring both tensors of `op` to its lower precision, as it does for a convolution."""
    for device_type, key in AUTOCAST_KEYS.items():
        LIBRARY.impl(name, _autocast_kernel(op, device_type, key), key)


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for tensors of this device type (never for meta tensors)."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """channels_last if the channels of `x` [N,C,H,W] lie next to each other and it is not contiguous, else contiguous.

    The format an operation returns; a slice of the channels of a channels_last map counts as channels_last.
    """
    return torch.channels_last if x.stride(1) == 1 and not x.is_contiguous() else torch.contiguous_format


def composite_backward(form: Callable, grad: torch.Tensor, tensors: tuple, needs: tuple, *options) -> list:
    """Gradients of `form(*tensors, *options)`, differentiable again where gradients are recorded (create_graph).

    Each tensor enters by a node of its own: what it was computed from, or another that is the same, plays no part.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        given = [t if t is None else t.view_as(t) if again else t.detach().requires_grad_(need)
                 for t, need in zip(tensors, needs, strict=True)]  # fmt: skip
        y = form(*given, *options)
    asked = [t for t, need in zip(given, needs, strict=True) if need]
    found = iter(torch.autograd.grad(y, cast(list[torch.Tensor], asked), grad, create_graph=again))
    return [next(found) if need else None for need in needs]


def _autograd_kernel(op, backward: Callable, num_tensors: int) -> Callable:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            ctx.save_for_backward(*args[:num_tensors])
            ctx.options = args[num_tensors:]
            with torch._C._AutoDispatchBelowAutograd():
                return op(*args)

        @staticmethod
        def backward(ctx, grad):
            grads = backward(grad, *ctx.saved_tensors, ctx.needs_input_grad[:num_tensors], *ctx.options)
            return (*grads, *(None for _ in ctx.options))

    def kernel(*args):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args[:num_tensors]):
            return Function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return kernel


def _autocast_kernel(op, device_type: str, key: str) -> Callable:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return t if t.dtype == torch.float64 else t.to(dtype)

    def kernel(a, b, *options):
        dtype = torch.get_autocast_dtype(device_type)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(cast(a, dtype), cast(b, dtype), *options)

    return kernel
