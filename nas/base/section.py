"""Section: the base class of all sections of an experiment file; frozen, strict, without unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from nas.base.extensions import OWN, full_name

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
OwnName = Annotated[str, StringConstraints(pattern=OWN)]


def named(group: str) -> WrapValidator:
    """Puts `module:object` in the place of a short name that an installed package gives by an entry point."""

    def check(name: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(name)
        except ValidationError:
            full = full_name(group, name) if isinstance(name, str) else name
            if full == name:
                raise
            return handler(full)

    return WrapValidator(check)


ShippedDataset = Literal["digits", "cluttered_digits", "cifar10", "cifar100", "imagefolder", "scattered_digits"]
DatasetName = Annotated[ShippedDataset | OwnName, named("nas.datasets")]
EMBEDDED = ("digits", "cluttered_digits", "scattered_digits")
"""Data sets that need no folder."""
SCENES = ("scattered_digits",)
"""Data sets of pictures with boxes, for detection; all others are for classification."""


class Section(BaseModel):
    """Frozen; an unknown key or a value of another type is an error.

    A text below a field describes it in the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)
