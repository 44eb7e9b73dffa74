"""Forms of one function in PyTorch's own operations, and which of them runs a call.

A call is a case: operation, sizes and dtypes of its tensors (after autocast, as they come), options, and what of the
device's settings matters; not the order of its tensors in memory, as all forms bring them into that of NCHW first. The
form that runs a case is the one that was measured as fastest before, if it is
among those that were given to `use`; else the one that a rule says. Never is it the outcome of a clock at run time, so
that processes which were given the same choices compute the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .launch import constant_when_compiled, float32_precision

MAP_DIMS, SPEC = 4, "tensor"
Setting = tuple[str | int | bool, ...]


class Spec(NamedTuple):
    """A tensor of a case."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    needs_grad: bool = False
    channels_last: bool = False

    def numel(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        about = [str(self.dtype).removeprefix("torch."), "x".join(map(str, self.shape))]
        return " ".join([*about, *(["grad"] if self.needs_grad else []), *(["last"] if self.channels_last else [])])


class Case(NamedTuple):
    """A call as far as speed goes; its text is its name in files. `pass_name`: forward, or training with a gradient."""

    forms: str
    pass_name: str
    setting: Setting
    arguments: tuple[Any, ...]

    def with_images(self, before: int, now: int) -> Case:
        """The case with another number of images, which all first lengths of `before` are; both are 2 at least."""
        arguments = (
            value._replace(shape=(now, *value.shape[1:]))
            if isinstance(value, Spec) and value.shape[:1] == (before,)
            else value
            for value in self.arguments
        )
        return self._replace(arguments=tuple(arguments))

    def __str__(self) -> str:
        words = " ".join(map(str, (self.forms, self.pass_name, *self.setting)))
        return " | ".join([words, *map(str, self.arguments)])


def constants_of(case: Case) -> tuple[Any, ...]:
    """A case as plain tuples, which torch.compile hands to a function of constants."""
    arguments = tuple((SPEC, *value) if isinstance(value, Spec) else value for value in case.arguments)
    return (case.forms, case.pass_name, case.setting, arguments)


def case_of(constants: tuple[Any, ...]) -> Case:
    """The case that `constants_of` was made of."""
    forms, pass_name, setting, arguments = constants
    made = (Spec(*each[1:]) if isinstance(each, tuple) and each[:1] == (SPEC,) else each for each in arguments)
    return Case(forms, pass_name, setting, tuple(made))


@dataclass(frozen=True, eq=False)
class Forms:
    """Functions that compute the same, of tensors or None first and plain options behind.

    rule: the name of the one that runs these arguments where nothing was measured; takes specs as well as tensors.
    workspace: elements that a form keeps besides its arguments and its result, infinitely many where it cannot run, so
    that those with too many are not tried.
    differentiated: whether gradients are taken through the form; otherwise they are functions of their own.
    autocasts: whether autocast brings the tensors of such a form to its dtype.
    keeps_layout: whether the order of maps in memory is part of a case.
    """

    name: str
    forms: Mapping[str, Callable[..., torch.Tensor]]
    rule: Callable[..., str]
    workspace: Mapping[str, Callable[..., float]] = field(default_factory=dict)
    differentiated: bool = False
    autocasts: bool = True
    keeps_layout: bool = False

    def __call__(self, *arguments: Any) -> torch.Tensor:
        return self.forms[self.choose(*arguments)](*arguments)

    def choose(self, *arguments: Any) -> str:
        """The name of the form that runs these arguments. A graph that is compiled keeps to the rule."""
        return self.measured(*arguments) or self.rule(*arguments)

    def measured(self, *arguments: Any) -> str:
        """The form that was measured as the fastest for these arguments, empty where none was."""
        if not asked() or torch.compiler.is_compiling():
            return ""
        case = self.case(arguments)
        if case is None:
            return ""
        if _noting:
            _noting[-1].setdefault(case, self.rule(*arguments))
        return self.looked_up(case)

    def looked_up(self, case: Case) -> str:
        """The form that was measured as the fastest for a case, empty where none was."""
        if case not in _memory:
            found = _chosen.get(str(case), "")
            _memory[case] = found if found in self.forms else ""
        return _memory[case]

    def case(self, arguments: tuple[Any, ...]) -> Case | None:
        """What a call is a case of; None on a device that computes nothing."""
        tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
        setting = setting_of(tensors[0].device)
        if setting is None:
            return None
        grad = self.differentiated and torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        kind = tensors[0].device.type  # an operation of its own gets its tensors cast, another one casts them inside
        casts = self.differentiated and self.autocasts and torch.is_autocast_enabled(kind)
        cast = torch.get_autocast_dtype(kind) if casts else None
        plain = tuple(_plain(value, grad, cast, self.keeps_layout) for value in arguments)
        return Case(self.name, "training" if grad else "forward", setting, plain)


@constant_when_compiled
def setting_of(device: torch.device) -> Setting | None:
    """What of the settings of a device matters to times; None of a device that computes nothing."""
    if device.type == "cpu":
        return ("cpu", torch.get_num_threads())
    if device.type == "cuda":
        return ("cuda", torch.backends.cudnn.benchmark, float32_precision())
    return None


def use(choices: Mapping[str, str]) -> None:
    """Have the cases with these texts run by these forms in this process, and all others by the rule."""
    _chosen.clear()
    _chosen.update(choices)
    _memory.clear()


def asked() -> bool:
    """Whether any case was measured, or cases are being noted: otherwise each is run by the rule."""
    return bool(_chosen or _noting)


def used() -> dict[str, str]:
    """What was given to `use`."""
    return dict(_chosen)


@contextmanager
def noted() -> Iterator[dict[Case, str]]:
    """The cases of all calls within, each with the form that the rule says."""
    found: dict[Case, str] = {}
    _noting.append(found)
    try:
        yield found
    finally:
        _noting.remove(found)


def _plain(value: Any, grad: bool, cast: torch.dtype | None, layout: bool) -> Any:
    if not isinstance(value, torch.Tensor):
        return tuple(value) if isinstance(value, list | torch.Size) else value
    dtype = value.dtype if cast is None or value.dtype == torch.float64 else cast
    last = layout and value.dim() == MAP_DIMS and value.stride(1) == 1 and not value.is_contiguous()
    return Spec(tuple(value.shape), dtype, value.device, grad and value.requires_grad, last)


_chosen: dict[str, str] = {}
_memory: dict[Case, str] = {}
_noting: list[dict[Case, str]] = []
