"""Whether a transform is at work that takes PyTorch's own operations alone, so that none of ours may be called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from .launch import constant_when_compiled


@constant_when_compiled
def exports_onnx() -> bool:
    """Whether torch.onnx.export is under way, by torch.export or by TorchScript."""
    onnx = sys.modules.get("torch.onnx")  # which who exports has imported; nobody else should pay for it
    return onnx is not None and onnx.is_in_onnx_export()


@constant_when_compiled
def exports() -> bool:
    """Whether torch.export is under way, whose graph others may compile for any batch size."""
    return torch.compiler.is_exporting()


@constant_when_compiled
def wants_plain() -> bool:
    """Whether a graph is taken for others to run (ONNX, torch.jit.trace), or torch.func transforms the call (vmap)."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
    return transformed or torch.jit.is_tracing() or exports_onnx()


def is_static(arguments: Sequence[Any]) -> bool:
    """Whether torch.compile knows these numbers, and the sizes of these tensors, for the graph that it makes."""
    numbers = [n for each in arguments for n in (each.shape if isinstance(each, torch.Tensor) else [each])]
    return not any(isinstance(n, torch.SymInt) for n in numbers)
