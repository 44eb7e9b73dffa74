"""All operations, in one list: whatever is keyed by operation is made from it."""

from __future__ import annotations

from importlib import import_module

from ._core.operation import Operation

NAMES = (  # in the order in which a short benchmark takes them
    "involution",
    "depthwise_conv2d",
    "odconv2d",
    "self_calibrated_gate",
    "gnconv_gate",
    "gnconv_recursion",
    "global_filter",
    "conv2d",
    "spanned_involution",
)
OPERATIONS: dict[str, Operation] = {name: import_module(f".{name}", __package__).OPERATION for name in NAMES}
