"""Functions on tensors: the operations the networks are made of. Imports torch, and triton only to run its kernels.

Each takes NCHW tensors on CPU, CUDA, meta or fake, is differentiable, and works under autocast and torch.compile.
OPNAS_KERNELS=auto|triton|aten|reference chooses the provider, for all or, as in triton,global_filter=aten, for all but
the operations named; `explain` says which one runs and why.

The import name is `nas.kernels`; in the root of a checkout `kernels` is the same package, which does not import nas.
"""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OperatorBase

from ._core.dispatch import SettingError, decide
from ._core.forms import use
from ._core.launch import unavailable_reason
from ._core.names import allow_both_names
from ._core.operation import Choice
from .conv2d import conv2d
from .depthwise_conv2d import depthwise_conv2d
from .global_filter import global_filter, kept_matrices
from .gnconv_gate import gnconv_gate
from .gnconv_recursion import gnconv_recursion
from .involution import involution
from .odconv2d import odconv2d
from .operations import OPERATIONS
from .self_calibrated_gate import self_calibrated_gate
from .spanned_involution import spanned_involution
from .tools.choosing import tune

allow_both_names(__name__)


def explain(op: str, *arguments: object, pass_name: str = "forward", **options: object) -> Choice:
    """The provider that runs `op` and the reason, for these arguments (those of the function `op`) or in general.

    `pass_name`: forward, grad_input, grad_weight or training (of a convolution with something behind it, forward is a
    case of its own). Raises ValueError for an unknown `op`, SettingError for an OPNAS_KERNELS that is unknown or
    cannot be obeyed.
    """
    if op not in OPERATIONS:
        raise ValueError(f"op = {op!r}: allowed is one of {', '.join(OPERATIONS)}")
    operation = OPERATIONS[op]
    if operation.problem and arguments:
        return decide(operation, operation.problem(*arguments, pass_name=pass_name, **options))
    return decide(operation, unsupported_reason=unavailable_reason())


def decompositions() -> dict[OperatorBase, Callable]:
    """Our registered operations -> the same in PyTorch's own, for `ExportedProgram.run_decompositions`.

    Formats such as ONNX know only PyTorch's operations. None of the forms has complex numbers.
    """
    return {packet: form for operation in OPERATIONS.values() for packet, form in operation.decompositions.items()}


__all__ = [
    "SettingError",
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
    "tune",
    "use",
]
