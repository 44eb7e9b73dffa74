"""Our kernels against PyTorch's own form of an operation, as two forms of one function, between which a measurement on
the device decides: for a whole call with all its gradients, as trials make it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .dispatch import SECOND, imposed
from .forms import Forms


def rivals(
    op: str,
    public: Callable[..., torch.Tensor],
    autocasts: bool = True,
    may_win: Callable[..., bool] | None = None,
) -> Forms:
    """The forms `aten` and `triton` of an operation; `public` takes tensors or None first and plain options behind.

    A call that Triton cannot take is no case. `autocasts`: whether autocast brings its tensors to its dtype. Where
    `may_win` says so of the arguments, from what a kernel moves and computes, Triton's second way is measured as well:
    another tile, or another algorithm.
    """

    def by(provider: str) -> Callable[..., torch.Tensor]:
        def form(*arguments: Any) -> torch.Tensor:
            with imposed(op, provider):
                return public(*arguments)

        return form

    ways = ["aten", "triton", *([SECOND] if may_win else [])]
    return Forms(
        f"{op}_provider",
        {name: by(name) for name in ways},
        lambda *_: "aten",
        {SECOND: lambda *arguments: 0 if may_win(*arguments) else math.inf} if may_win else {},
        differentiated=True,
        autocasts=autocasts,
        keeps_layout=True,
    )
