"""Context managers: which kernel provider runs, and the precision of float32 products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from .._core.dispatch import VARIABLE


@contextmanager
def forced(backend: str) -> Iterator[None]:
    """OPNAS_KERNELS for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = backend
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """`ieee` or `tf32` in matrix products and convolutions of float32 on a GPU."""
    settings = (torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn).conv)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = precision
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
