"""UserError: wrong input, reported as one clear message and exit code 2."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

WAYS_OUT = {
    errno.ENOSPC: "make room; nothing that finished is lost",
    errno.EDQUOT: "make room; nothing that finished is lost",
    errno.EROFS: "take a folder that can be written to",
    errno.EACCES: "take a folder that you may write to",
    errno.EPERM: "take a folder that you may write to",
}

EXTRAS = {
    **dict.fromkeys(("ray", "pyarrow", "optuna", "cmaes", "scipy", "sklearn", "pandas", "matplotlib"), "search"),
    **dict.fromkeys(("plotly", "starlette", "uvicorn"), "dashboard"),
    "faster_coco_eval": "dense",
}
"""Packages that an extra of the distribution brings."""


class UserError(ValueError):
    """Wrong input or a missing thing; the message names the place and what is allowed."""

    exit_code = 2


class MachineError(UserError):
    """The machine, or the file's search section, cannot serve a search."""


class HostError(UserError):
    """What ran had to stop because of the host that it ran on: a full disk, a lost database."""

    exit_code = 1


class Failed(RuntimeError):
    """What was asked for began, and could not be brought to its end; the message says why."""

    exit_code = 1


class Interrupted(Failed):
    """It was asked to stop, and has saved everything."""

    exit_code = 130


class SettingOfHost(HostError):
    """An environment variable that cannot be obeyed on this host."""

    exit_code = 2


def host_error(problem: BaseException) -> HostError | None:
    """What of the host stopped something, with the way out: a file that cannot be used, kernels that OPNAS_KERNELS asks
    for and that cannot run; None for a problem of another kind."""
    if isinstance(problem, HostError):
        return problem
    if isinstance(problem, OSError) and problem.errno in WAYS_OUT:
        return HostError(f"{problem.filename or 'a file'}: {problem.strerror}; {WAYS_OUT[problem.errno]}")
    kernels = sys.modules.get("nas.kernels")  # which needs torch, and most verbs do without
    return SettingOfHost(str(problem)) if kernels and isinstance(problem, kernels.SettingError) else None


def of_package(problem: BaseException) -> UserError | None:
    """What is to be installed for a package that is missing; None for one that no extra brings."""
    name = (getattr(problem, "name", None) or "").partition(".")[0] if isinstance(problem, ModuleNotFoundError) else ""
    extra = EXTRAS.get(name)
    return UserError(f"needs the package {name}: pip install 'opnas[{extra}]', or 'opnas[all]'") if extra else None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
