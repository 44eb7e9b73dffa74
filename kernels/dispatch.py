"""Which provider runs an operation, and why.

A provider is one implementation of one operation: `aten` (the fast form in plain PyTorch), `reference` (the shortest
correct form, for comparison), `triton` (none in this version). The environment variable OPNAS_KERNELS is read at each
call: `auto` picks the fastest provider there is; any other value forces that provider or raises.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "OPNAS_KERNELS"
BACKENDS = ("auto", "triton", "aten", "reference")
PROVIDERS = {
    "involution": ("aten", "reference"),
    "depthwise_conv2d": ("aten", "reference"),
    "odconv2d": ("aten", "reference"),
    "self_calibrated_gate": ("aten", "reference"),
    "gnconv_gate": ("aten", "reference"),
    "global_filter": ("aten", "reference"),
    "conv2d": ("aten", "reference"),
}


@dataclass(frozen=True)
class Choice:
    """The provider that runs `op`, and the reason in words."""

    op: str
    provider: str
    reason: str


def choose(op: str) -> str:
    """Name of the provider that runs `op` now.

    Raises ValueError for an unknown operation or an unknown value of OPNAS_KERNELS, RuntimeError when the forced
    provider does not exist for `op`.
    """
    if op not in PROVIDERS:
        raise ValueError(f"op = {op!r}: allowed is one of {', '.join(PROVIDERS)}")
    backend = os.environ.get(VARIABLE, "auto")
    if backend not in BACKENDS:
        raise ValueError(f"{VARIABLE} = {backend!r}: allowed is one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return PROVIDERS[op][0]
    if backend not in PROVIDERS[op]:
        raise RuntimeError(f"{VARIABLE}={backend}: this version has no {backend} provider for {op}")
    return backend


def explain(op: str) -> Choice:
    """The choice for `op` with its reason; raises what `choose` raises."""
    provider = choose(op)
    backend = os.environ.get(VARIABLE, "auto")
    others = ", ".join(name for name in PROVIDERS[op] if name != provider)
    reason = (
        f"fastest provider of this version on every device; also there: {others}"
        if backend == "auto"
        else f"forced by {VARIABLE}={backend}"
    )
    return Choice(op, provider, reason)
