"""Functions on tensors: the operations the networks are made of. Imports torch, and triton only to run its kernels.

Each takes NCHW tensors on CPU, CUDA, meta or fake, is differentiable, and works under autocast and torch.compile.
OPNAS_KERNELS=auto|triton|aten|reference chooses the provider, for all or, as in triton,global_filter=aten, for all but
the operations named; `explain` says which one runs and why.

The import name is `nas.kernels`; in the root of a checkout `kernels` is the same package, which does not import nas.
"""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OperatorBase

from ._core.names import share
from .average_pool2d import average_pool2d, average_pool2d_decompositions
from .average_pool2d import case as _pool_case
from .conv2d import case as _conv_case
from .conv2d import conv2d, conv2d_decompositions
from .depthwise_conv2d import case as _depthwise_case
from .depthwise_conv2d import depthwise_conv2d, depthwise_conv2d_decompositions
from .dispatch import Choice, decide
from .global_filter import global_filter, global_filter_decompositions, kept_matrices
from .gnconv_gate import case as _gate_case
from .gnconv_gate import gnconv_gate, gnconv_gate_decompositions
from .gnconv_recursion import case as _recursion_case
from .gnconv_recursion import gnconv_recursion, gnconv_recursion_decompositions
from .involution import case as _involution_case
from .involution import involution, involution_decompositions
from .launch import machine_obstacle
from .odconv2d import case as _odconv_case
from .odconv2d import odconv2d, odconv2d_decompositions
from .self_calibrated_gate import case as _calibrated_case
from .self_calibrated_gate import self_calibrated_gate, self_calibrated_gate_decompositions
from .spanned_involution import case as _spanned_case
from .spanned_involution import spanned_involution, spanned_involution_decompositions

share(__name__)

_CASES = {
    "average_pool2d": _pool_case,
    "conv2d": _conv_case,
    "depthwise_conv2d": _depthwise_case,
    "gnconv_gate": _gate_case,
    "gnconv_recursion": _recursion_case,
    "involution": _involution_case,
    "odconv2d": _odconv_case,
    "self_calibrated_gate": _calibrated_case,
    "spanned_involution": _spanned_case,
}


def explain(op: str, *arguments, passing: str = "forward", **options) -> Choice:
    """The provider that runs `op` and the reason, for these arguments (those of the function `op`) or in general.

    `passing`: forward, grad_input, grad_weight or training (of a convolution with something behind it, forward is a
    case of its own). Raises ValueError for an unknown `op` or OPNAS_KERNELS, RuntimeError where the forced provider
    cannot run.
    """
    if op in _CASES and arguments:
        return decide(op, _CASES[op](*arguments, passing=passing, **options))
    return decide(op, obstacle=machine_obstacle())


def decompositions() -> dict[OperatorBase, Callable]:
    """Our registered operations -> the same in PyTorch's own, for `ExportedProgram.run_decompositions`.

    Formats such as ONNX know only PyTorch's operations. None of the forms has complex numbers.
    """
    return {
        **average_pool2d_decompositions(),
        **conv2d_decompositions(),
        **involution_decompositions(),
        **spanned_involution_decompositions(),
        **depthwise_conv2d_decompositions(),
        **gnconv_gate_decompositions(),
        **gnconv_recursion_decompositions(),
        **odconv2d_decompositions(),
        **self_calibrated_gate_decompositions(),
        **global_filter_decompositions(),
    }


__all__ = [
    "average_pool2d",
    "conv2d",
    "decompositions",
    "depthwise_conv2d",
    "explain",
    "global_filter",
    "gnconv_gate",
    "gnconv_recursion",
    "involution",
    "kept_matrices",
    "odconv2d",
    "self_calibrated_gate",
    "spanned_involution",
]
