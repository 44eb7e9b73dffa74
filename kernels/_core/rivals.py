"""Our kernels against PyTorch's own form of an operation, as two forms of one function, between which a measurement on
the device decides: for a whole call with all its gradients, as trials make it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .dispatch import imposed
from .forms import Forms


def rivals(op: str, public: Callable[..., torch.Tensor], autocasts: bool = True) -> Forms:
    """The forms `aten` and `triton` of an operation; `public` takes tensors or None first and plain options behind.

    A call that Triton cannot take is no case. `autocasts`: whether autocast brings its tensors to its dtype.
    """

    def by(provider: str) -> Callable[..., torch.Tensor]:
        def form(*arguments: Any) -> torch.Tensor:
            with imposed(op, provider):
                return public(*arguments)

        return form

    return Forms(
        f"{op}_provider",
        {"aten": by("aten"), "triton": by("triton")},
        lambda *_: "aten",
        differentiated=True,
        autocasts=autocasts,
        keeps_layout=True,
    )
