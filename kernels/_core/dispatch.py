"""Which provider runs an operation, and why.

A provider is one implementation of one operation: `aten` (the fast form in plain PyTorch), `reference` (the shortest
correct form, for comparison), `triton` (our GPU kernels). The environment variable OPNAS_KERNELS is read at each call:
`auto` takes Triton where a table of times measured on this kind of GPU (tables/<gpu>.json, of kernels.tools.slot) has
it at least 3 % faster near the case; where no time is near, on an NVIDIA GPU and for the operations that cannot
lose there (their `rule`); else aten. Any other value forces that provider or raises.
Operations can be named behind it: `triton,global_filter=aten`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .forms import asked, case_of, constants_of
from .launch import constant_when_compiled, interpreted
from .operation import Choice, Operation, Problem
from .transforms import exports, is_static, wants_plain

VARIABLE = "OPNAS_KERNELS"
BACKENDS = ("auto", "triton", "aten", "reference")
TABLES = Path(__file__).parents[1] / "tables"
SUPPORTED = (8, 0)  # the least compute capability of NVIDIA GPUs for which Triton is tested
GAIN = 0.97  # Triton's time over aten's, at most
SECOND = "triton_2"  # our kernels in their second way: the operation's `tile`, or another algorithm of its own
NEAR = 1.0  # doublings of images * pixels, and of channels, between a problem and the measured one that speaks for it


class SettingError(ValueError, RuntimeError):
    """OPNAS_KERNELS is none that there is, or cannot be obeyed here: nothing that the network did."""


def choose(operation: Operation) -> str:
    """Name of the provider that runs it now, whatever its tensors; raises what `decide` raises."""
    return "aten" if _backend(operation) == "auto" else decide(operation).provider


def decide(operation: Operation, problem: Problem | None = None, unsupported_reason: str | None = None) -> Choice:
    """The choice for an operation now, for this problem; without one, as far as it can be told from the machine, whose
    `unsupported_reason` is given.

    Raises SettingError for an unknown value of OPNAS_KERNELS, and when the forced provider does not exist or cannot
    solve the problem.
    """
    op, backend = operation.name, _backend(operation)
    unsupported_reason = problem.unsupported_reason if problem else unsupported_reason
    _check_forced(operation, backend, unsupported_reason)
    if backend == "auto" and problem and _granted and problem in _granted:
        words = f"measured as the faster for such a call on {gpu_name(problem.device)}"
        return Choice(op, "triton", words, _granted[problem])
    entry = _nearest(problem, str(TABLES)) if problem and not unsupported_reason else None
    config = entry["config"] if entry else None
    if backend != "auto":
        return Choice(op, backend, f"forced by {VARIABLE}={os.environ[VARIABLE]}", config)
    if problem is None or entry is None:
        if operation.rule and problem and not unsupported_reason and runs_triton_well(problem.device):
            return Choice(op, "triton", f"on an NVIDIA GPU always, unless measured slower: {operation.rule}")
        return Choice(op, "aten", _why_aten(operation, problem, unsupported_reason))
    return _faster(op, entry, problem)


def _check_forced(operation: Operation, backend: str, unsupported_reason: str | None) -> None:
    """Raise SettingError where OPNAS_KERNELS asks for what is not there, or cannot run."""
    if backend != "auto" and backend not in operation.providers:
        raise SettingError(f"{VARIABLE}={backend}: this version has no {backend} provider for {operation.name}")
    if backend == "triton" and unsupported_reason:
        raise SettingError(f"{VARIABLE}={backend}: {operation.name} cannot run so: {unsupported_reason}")


def _faster(op: str, entry: dict[str, Any], problem: Problem) -> Choice:
    """The provider that an entry of the table names."""
    provider = "triton" if entry["triton_ms"] <= GAIN * entry["aten_ms"] else "aten"
    measured = f"{entry['triton_ms']:.3g} ms by triton against {entry['aten_ms']:.3g} ms by aten"
    near = f"{entry['images']}x{entry['channels']}x{entry['size'][0]}x{entry['size'][1]}"
    return Choice(op, provider, f"{measured} at {near}, measured on {gpu_name(problem.device)}", entry["config"])


def implementation(operation: Operation, problem: Problem) -> tuple[ModuleType, dict[str, Any]]:
    """The module that runs a pass, and its options: a `config` where it is Triton's."""
    choice = decide(operation, problem)
    options = {"config": choice.config} if choice.provider == "triton" else {}
    return import_module(f"{operation.package}.{choice.provider}"), options


def uses_triton(
    op: Operation,
    device: torch.device,
    problem_of: Callable[[str], Problem],
    passes: Sequence[str],
    deferred: bool = True,
    call: tuple[Any, ...] = (),
) -> bool:
    """Whether Triton runs one of the passes; see `provider`."""
    return ours(provider(op, device, problem_of, passes, deferred, call))


def provider(
    op: Operation,
    device: torch.device,
    problem_of: Callable[[str], Problem],
    passes: Sequence[str],
    deferred: bool = True,
    call: tuple[Any, ...] = (),
) -> str:
    """triton if one of `passes` would run our kernel, so that the caller must use the registered operation, SECOND if
    that was measured as the faster; else the name of the form in PyTorch's own operations.

    Under torch.compile it is triton only where that wins for the sizes that the graph is made for, so that the compiler
    fuses PyTorch's own operations with what is around them. A graph for any size has it wherever there is a table or a
    rule, and the choice is made at run time, from the sizes met; with `deferred` False it cannot be made then, and it
    is PyTorch's.

    While PyTorch's own operations are asked for (`transforms.wants_plain`) it is one of them, whatever is forced.

    `call`: the arguments by which the operation's `rivals` know what was measured for just this call, which comes
    before table and rule.
    """
    if wants_plain():
        return "aten"
    if _imposed and op.name in _imposed[-1]:
        return _granted_provider(op, _imposed[-1][op.name], problem_of, passes)
    if _backend(op) != "auto":
        return choose(op)
    if torch.compiler.is_compiling():
        return _of_graph(op, device, problem_of, passes, deferred, call)
    if asked() and call and (measured := _measured(op, device, lambda: problem_of(passes[0]), call)):
        return _granted_provider(op, measured, problem_of, passes)
    # asked first: a small network has many calls, and a problem takes longer to describe
    if not has_table(device) and not (op.rule and runs_triton_well(device)):
        return "aten"
    if problem_of(passes[0]).unsupported_reason:
        return "aten"
    return "triton" if any(decide(op, problem_of(p)).provider == "triton" for p in passes) else "aten"


@contextmanager
def imposed(op: str, provider: str) -> Iterator[None]:
    """Calls of an operation within are run by this provider, with their gradients, wherever these are taken."""
    _imposed.append({**(_imposed[-1] if _imposed else {}), op: provider})
    try:
        yield
    finally:
        _imposed.pop()


def _of_graph(
    op: Operation,
    device: torch.device,
    problem_of: Callable[[str], Problem],
    passes: Sequence[str],
    deferred: bool,
    call: tuple[Any, ...],
) -> str:
    """`provider` while torch.compile follows the call: what it cannot follow is asked of functions of constants."""
    measured = bool(call and op.rivals and _asks(device))
    ruled = has_table(device) or bool(op.rule and runs_triton_well(device))
    if not measured and not ruled:
        return "aten"
    problems = [problem_of(pass_name) for pass_name in passes]
    if problems[0].unsupported_reason:
        return "aten"
    described = tuple(problem.constants for problem in problems)
    case = op.rivals.case(call) if measured and op.rivals and is_static(call) else None
    found = _measured_for_graph(op.name, constants_of(case), described, _cast(problems[0])) if case else ""
    if found or not ruled:
        return found or "aten"
    fixed = is_static((problems[0].images, *problems[0].size))
    return "triton" if (_wins(op.name, described) if fixed else deferred) else "aten"


def _asks(device: torch.device) -> bool:
    """Whether what was measured has a say in a graph for a device."""
    return asked() and (device.type == "cuda" or interpreted()) and not exports()


@constant_when_compiled
def _measured_for_graph(
    op: str, case: tuple[Any, ...], problems: tuple[tuple[Any, ...], ...], cast: torch.dtype
) -> str:
    """What was measured as the faster for a call of the graph, empty where none was; see `_granted_provider`."""
    operation = _operation(op)
    found = operation.rivals.looked_up(case_of(case)) if operation.rivals else ""
    if ours(found):
        _grant(operation, found, [Problem(*constants) for constants in problems], cast)
    return found


@constant_when_compiled
def _wins(op: str, problems: tuple[tuple[Any, ...], ...]) -> bool:
    """Whether table or rule have Triton run one of the passes."""
    return any(decide(_operation(op), Problem(*constants)).provider == "triton" for constants in problems)


def _operation(name: str) -> Operation:
    from ..operations import OPERATIONS  # which are made of what this module gives them

    return OPERATIONS[name]


def _measured(op: Operation, device: torch.device, problem_of: Callable[[], Problem], call: tuple[Any, ...]) -> str:
    """The provider that was measured as the faster for a call, empty where none was or Triton cannot take it."""
    if not op.rivals or (device.type == "cpu" and not interpreted()):
        return ""
    return "" if problem_of().unsupported_reason else op.rivals.measured(*call)


def ours(provider: str) -> bool:
    """Whether a provider is our kernels, in whatever way."""
    return provider in ("triton", SECOND)


def grant(op: Operation, problem_of: Callable[[str], Problem], passes: Sequence[str]) -> None:
    """Have our kernels run these passes; for problems that are not those of the call which `provider` was asked for."""
    problems = [problem_of(pass_name) for pass_name in passes]
    _grant_described(op.name, tuple(problem.constants for problem in problems), _cast(problems[0]))


@constant_when_compiled
def _grant_described(op: str, problems: tuple[tuple[Any, ...], ...], cast: torch.dtype) -> None:
    _grant(_operation(op), "triton", [Problem(*constants) for constants in problems], cast)


def _granted_provider(op: Operation, provider: str, problem_of: Callable[[str], Problem], passes: Sequence[str]) -> str:
    """The provider; if it is Triton, the passes know it when their time comes, also those in autograd's threads."""
    if ours(provider):
        problems = [problem_of(pass_name) for pass_name in passes]
        _grant(op, provider, problems, _cast(problems[0]))
    return provider


def _grant(op: Operation, provider: str, problems: Sequence[Problem], cast: torch.dtype) -> None:
    config = op.tile if provider == SECOND else None
    _granted.update(dict.fromkeys((same for each in problems for same in (each, replace(each, dtype=cast))), config))


def _cast(problem: Problem) -> torch.dtype:
    """The dtype that autocast brings its tensors to."""
    kind = problem.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else problem.dtype


@constant_when_compiled
def has_table(device: torch.device) -> bool:
    """Whether times were measured on this kind of device."""
    return _table(gpu_name(device), str(TABLES)) is not None


@constant_when_compiled
@lru_cache
def runs_triton_well(device: torch.device) -> bool:
    """Whether this is an NVIDIA GPU that Triton supports; one that is not there, as of fake tensors, counts as such."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= SUPPORTED


@lru_cache
def gpu_name(device: torch.device) -> str:
    """The name of a table: that of the GPU in lower case, `cpu` for the CPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return device.type
    return re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name(device).lower()).strip("_")


def _backend(operation: Operation) -> str:
    value = os.environ.get(VARIABLE, "auto")
    return value if value in BACKENDS else _backends(value)[operation.name]


@lru_cache
def _backends(value: str) -> dict[str, str]:
    """Operation -> backend, of a value such as `auto` or `triton,global_filter=aten`."""
    from ..operations import OPERATIONS  # which are made of what this module gives them

    default, *named = value.split(",")
    found = dict.fromkeys(OPERATIONS, default)
    found |= {op: backend for op, _, backend in (part.partition("=") for part in named)}
    if unknown := found.keys() - OPERATIONS.keys():
        raise SettingError(f"{VARIABLE} = {value!r}: no operation {unknown.pop()!r}; there are {', '.join(OPERATIONS)}")
    if not set(BACKENDS).issuperset(found.values()):
        raise SettingError(
            f"{VARIABLE} = {value!r}: allowed is one of {', '.join(BACKENDS)}, and operations behind it, each as op=one"
        )
    return found


def _why_aten(operation: Operation, problem: Problem | None, unsupported_reason: str | None) -> str:
    if "triton" not in operation.providers:
        others = ", ".join(name for name in operation.providers if name != "aten")
        return f"fastest provider of this version on every device; also there: {others}"
    if unsupported_reason:
        return f"triton cannot run: {unsupported_reason}"
    if problem is None:
        rule = ", and without a near one triton on an NVIDIA GPU" if operation.rule else ""
        return f"without tensors; with them the table of measured times decides{rule}"
    if not has_table(problem.device):
        return f"nothing was measured on {gpu_name(problem.device)} (kernels.tools.slot does), so triton has not won"
    return f"no {problem.pass_name} like this was measured on {gpu_name(problem.device)}"


@lru_cache(maxsize=4096)
def _nearest(problem: Problem, folder: str) -> dict | None:
    """The measured problem nearest to this one: same pass, dtype, filter and stride; size and widths within NEAR."""
    table = _table(gpu_name(problem.device), folder)
    fixed = {
        "op": problem.op,
        "pass": problem.pass_name,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "kernel": list(problem.kernel),
        "stride": list(problem.stride),
        "form": problem.form,
    }
    if problem.groups > 1:
        return None  # none was measured
    alike = [entry for entry in (table or []) if all(entry[name] == value for name, value in fixed.items())]
    if not alike or not problem.images:
        return None
    best = min(alike, key=lambda entry: _apart(problem, entry))
    return best if _apart(problem, best) <= NEAR else None


def _apart(problem: Problem, entry: dict) -> float:
    work = problem.images * math.prod(problem.size) / (entry["images"] * math.prod(entry["size"]))
    filters = problem.filters or problem.channels  # of all measured convolutions as many as channels
    widths = (problem.channels, filters)
    return max(abs(math.log2(part)) for part in (work, *(width / entry["channels"] for width in widths)))


_imposed: list[dict[str, str]] = []
_granted: dict[Problem, Mapping[str, int] | None] = {}


@lru_cache
def _table(name: str, folder: str) -> list[dict] | None:
    file = Path(folder) / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))["entries"] if file.is_file() else None
