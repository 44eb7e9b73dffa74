"""All operations, in one list: whatever is keyed by operation is made from it."""

from __future__ import annotations

from importlib import import_module

from ._core.operation import Operation

NAMES = (
    "depthwise_conv2d",
    "involution",
    "spanned_involution",
    "gnconv_gate",
    "gnconv_recursion",
    "global_filter",
    "conv2d",
    "odconv2d",
    "average_pool2d",
    "self_calibrated_gate",
)
OPERATIONS: dict[str, Operation] = {name: import_module(f".{name}", __package__).OPERATION for name in NAMES}
