"""Which form is the fastest for each case of a network, by times on the device.

Forms of a case alternate in one process, so that what disturbs one disturbs them all. One replaces that of the rule
where it takes at least 3 % less time in all rounds but the worst.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from .._core import forms as chosen
from .._core.dispatch import VARIABLE
from .._core.forms import Case, Spec
from ..operations import OPERATIONS

ROUNDS, DECIDED = 5, 3  # rounds at most, and those after which forms that are never near are left out
GAIN, FAR, HOPELESS = 0.97, 1.1, 3.0  # of the rule's time; of the fastest in every round; of the fastest in the first
SAMPLE_SECONDS = 1e-3
MOST_ELEMENTS = 2**27  # of a form's workspace: half a gigabyte in float32
FORMS = {
    forms.name: forms
    for operation in OPERATIONS.values()
    for forms in (*operation.forms, *([operation.rivals] if operation.rivals else []))
}


class Found(NamedTuple):
    """The form that runs a case, that of the rule, and the milliseconds of all that were tried, of the near ones the
    median of several rounds."""

    form: str
    rule: str
    milliseconds: dict[str, float]


def cases(
    model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None, training: bool = False
) -> dict[Case, str]:
    """The cases that `model` meets when it runs once on `images`, each with the form that the rule says.

    `dtype` is that of autocast, None for none. With `training` it is a step forward and back, which changes gradients
    and running statistics: of a copy, better.
    """
    device = images.device.type
    model.train(training)
    with (
        chosen.noted() as found,
        torch.set_grad_enabled(training),
        torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        y = model(images)
        if training and y.requires_grad:
            with torch.autocast(device, enabled=False):
                y.backward(torch.ones_like(y))
    return found


def fastest(case: Case, rule: str) -> Found:
    """Times the forms of a case; on a CPU by the thread's own time, if there is one. A form that cannot run here, other
    than that of the rule, is none."""
    forms, fitting = FORMS[case.forms], fitting_forms(case, rule)
    if len(fitting) == 1:
        return Found(rule, rule, {})
    device, before = torch.device(str(case.setting[0])), torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(int(case.setting[1]))
    try:
        made = arguments(case)
        timed = {name: _timed(_call(forms.forms[name], made, case.pass_name), device) for name in fitting}
        return _compared(timed, rule)
    finally:
        torch.set_num_threads(before)


def fitting_forms(case: Case, rule: str) -> list[str]:
    """The forms that are tried."""
    forms = FORMS[case.forms]
    return [
        name
        for name in forms.forms
        if name == rule or forms.workspace.get(name, lambda *_: 0)(*case.arguments) <= MOST_ELEMENTS
    ]


def arguments(case: Case) -> list[Any]:
    """Those of a case, its tensors with random values."""
    device = torch.device(str(case.setting[0]))
    return [_made(value, device) for value in case.arguments]


def once(case: Case, form: str) -> None:
    """One call of a form, with its gradients if they are part of the case."""
    _call(FORMS[case.forms].forms[form], arguments(case), case.pass_name)()


def compile_ahead(cases: Mapping[Case, str], seconds: float = math.inf) -> int:
    """Compile, within about so many seconds and in as many processes as there are cores, what our kernels need for
    these cases (with the form of the rule); returns how many kernels that were."""
    if not any("triton" in FORMS[case.forms].forms for case in cases):
        return 0
    from .compiling import compile_cases  # which needs triton

    return compile_cases(cases, seconds)


def forced() -> bool:
    """Whether OPNAS_KERNELS says which form runs, so that there is nothing to choose."""
    return os.environ.get(VARIABLE, "auto") != "auto"


def tune(
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
    training: bool = False,
    exclusive: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, str]:
    """Measure which forms of the operations are the fastest for a model where it is, on images of `shape` [N,C,H,W],
    and have this process use them; returns those of all cases, by text, to keep, and to give to `use` elsewhere.

    `dtype` is that of autocast, None for none; with `training` gradients are measured too. A copy of the model runs
    once. What our kernels need is compiled first, by as many processes as there are cores. `exclusive()` is held around
    each measurement. Under an OPNAS_KERNELS that forces a form nothing is measured.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.randn(shape, device=device)
    found = {} if forced() else cases(copy.deepcopy(model), images, dtype, training)
    choices = chosen.used()
    new = {case: rule for case, rule in found.items() if str(case) not in choices}
    compile_ahead(new)
    for case, rule in new.items():
        with exclusive():
            choices[str(case)] = fastest(case, rule).form
    chosen.use(choices)
    return choices


def _compared(timed: Mapping[str, Callable[[int], float]], rule: str) -> Found:
    """`timed`: seconds per call of each form, for so many calls in a row."""
    first = _first_calls(timed, rule)
    best = min(first.values())
    left = [name for name, seconds in first.items() if seconds <= HOPELESS * best]
    calls = max(1, round(SAMPLE_SECONDS / max(best, 1e-7)))
    rounds: dict[str, list[float]] = {name: [] for name in left}
    for i in range(ROUNDS):
        if len(left) == 1:
            break
        for name in left[i % len(left) :] + left[: i % len(left)]:
            rounds[name].append(timed[name](calls))
        if i + 1 >= DECIDED:
            fastest = [min(rounds[name][r] for name in left) for r in range(i + 1)]
            left = [n for n in left if any(t <= FAR * f for t, f in zip(rounds[n], fastest, strict=True))]
    milliseconds = {name: 1e3 * median(rounds.get(name) or [seconds]) for name, seconds in first.items()}
    ahead = _ahead({name: rounds[name] for name in left}, rule)
    return Found(min(ahead, key=lambda name: milliseconds[name], default=rule), rule, milliseconds)


def _first_calls(timed: Mapping[str, Callable[[int], float]], rule: str) -> dict[str, float]:
    """Seconds of a call of each form, of those that are not hopeless of the second one."""
    first: dict[str, float] = {}
    for name, run in timed.items():
        try:
            first[name] = run(1)  # which may compile, or fill caches
        except Exception:  # Triton's errors have no common kind, and a GPU may refuse a launch or have no memory for it
            if name == rule:
                raise
            continue
        if first[name] <= 2 * HOPELESS * min(first.values()):
            first[name] = min(first[name], run(1))
    return first


def _ahead(rounds: Mapping[str, list[float]], rule: str) -> list[str]:
    """The forms that are faster than the rule's by more than their spread; all of them if the rule's is out."""
    if rule not in rounds:
        return list(rounds)
    ratios = {
        name: sorted(a / b for a, b in zip(found, rounds[rule], strict=True))
        for name, found in rounds.items()
        if name != rule
    }
    return [name for name, found in ratios.items() if found[-2] <= GAIN]


def _made(value: Any, device: torch.device) -> Any:
    """An argument of a case: random values where it is a tensor."""
    if not isinstance(value, Spec):
        return value
    t = torch.randn(value.shape, device=device).to(value.dtype)
    t = t.contiguous(memory_format=torch.channels_last) if value.channels_last else t
    return t.requires_grad_(value.needs_grad)


def _call(form: Callable[..., torch.Tensor], arguments: list[Any], pass_name: str) -> Callable[[], object]:
    if pass_name == "forward":
        return torch.no_grad()(lambda: form(*arguments))
    asked = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]

    def trained() -> object:
        y = form(*arguments)
        return torch.autograd.grad(y, asked, torch.ones_like(y))

    return torch.enable_grad()(trained)


def _timed(call: Callable[[], object], device: torch.device) -> Callable[[int], float]:
    """Seconds per call of so many in a row."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter

    def run(calls: int) -> float:
        begin = clock()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (clock() - begin) / calls

    return run
