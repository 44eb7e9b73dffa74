"""Functions on tensors: the operations the networks are made of. Imports torch only.

Each takes NCHW tensors on CPU, CUDA, meta or fake, is differentiable, and works under autocast and torch.compile.
OPNAS_KERNELS=auto|triton|aten|reference chooses the provider, `explain(op)` says which one runs and why.
"""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OperatorBase

from kernels.conv2d import conv2d
from kernels.depthwise_conv2d import depthwise_conv2d
from kernels.dispatch import explain
from kernels.global_filter import global_filter, global_filter_decompositions
from kernels.gnconv_gate import gnconv_gate
from kernels.involution import involution, involution_decompositions
from kernels.odconv2d import odconv2d
from kernels.self_calibrated_gate import self_calibrated_gate


def decompositions() -> dict[OperatorBase, Callable]:
    """Our registered operations -> the same in PyTorch's own, for `ExportedProgram.run_decompositions`.

    Formats such as ONNX know only PyTorch's operations. The forms are the reference ones, without complex numbers.
    """
    return {**involution_decompositions(), **global_filter_decompositions()}


__all__ = [
    "conv2d",
    "decompositions",
    "depthwise_conv2d",
    "explain",
    "global_filter",
    "gnconv_gate",
    "involution",
    "odconv2d",
    "self_calibrated_gate",
]
