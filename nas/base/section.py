"""Section: the base class of all sections of an experiment file; frozen, strict, without unknown keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
DatasetName = Literal["digits", "cluttered_digits", "cifar10", "cifar100", "imagefolder"]
EMBEDDED = ("digits", "cluttered_digits")
"""Data sets that need no folder."""


class Section(BaseModel):
    """Frozen; an unknown key or a value of another type is an error.

    A text below a field describes it in the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)
