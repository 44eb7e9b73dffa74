"""opnas: neural architecture search over operator choices, on measured cost.

    import nas

    run = nas.search("search_spaces/digits.yaml")
    run.front()                                # a pandas DataFrame
    run.retrain(run.front().key.iloc[0])

All names of `__all__` are the public API; each is imported when it is first used, so that this module costs little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from nas import dashboard, operators, published
    from nas.api import __version__, find_runs, latency_table, measure, plan, search
    from nas.base.errors import Failed, UserError
    from nas.config.reading import load_experiment
    from nas.config.schema import json_schema
    from nas.data.prepare import prepare
    from nas.measure.profile import profile_network
    from nas.networks.fuse import fuse_for_inference
    from nas.networks.model import build_model
    from nas.networks.published_checkpoint import load_published_checkpoint
    from nas.run import Run, Trained
    from nas.runs.pareto import hypervolume, pareto_mask
    from nas.runs.record import TrialRecord
    from nas.search.surrogate import SurrogateSampler
    from nas.space.genotype import Genotype
    from nas.space.published import PUBLISHED
    from nas.space.search_space import SearchSpace

__all__ = [
    "PUBLISHED",
    "Failed",
    "Genotype",
    "Run",
    "SearchSpace",
    "SurrogateSampler",
    "Trained",
    "TrialRecord",
    "UserError",
    "__version__",
    "build_model",
    "dashboard",
    "find_runs",
    "fuse_for_inference",
    "hypervolume",
    "json_schema",
    "latency_table",
    "load_experiment",
    "load_published_checkpoint",
    "measure",
    "operators",
    "pareto_mask",
    "plan",
    "prepare",
    "profile_network",
    "published",
    "search",
]

_HOMES = {
    "PUBLISHED": "nas.space.published",
    "Failed": "nas.base.errors",
    "Genotype": "nas.space.genotype",
    "Run": "nas.run",
    "SearchSpace": "nas.space.search_space",
    "SurrogateSampler": "nas.search.surrogate",
    "Trained": "nas.run",
    "TrialRecord": "nas.runs.record",
    "UserError": "nas.base.errors",
    "__version__": "nas.api",
    "build_model": "nas.networks.model",
    "find_runs": "nas.api",
    "fuse_for_inference": "nas.networks.fuse",
    "hypervolume": "nas.runs.pareto",
    "json_schema": "nas.config.schema",
    "latency_table": "nas.api",
    "load_experiment": "nas.config.reading",
    "load_published_checkpoint": "nas.networks.published_checkpoint",
    "pareto_mask": "nas.runs.pareto",
    "plan": "nas.api",
    "prepare": "nas.data.prepare",
    "profile_network": "nas.measure.profile",
}
"""Name -> module. The other names of `__all__` are modules, of which `search` and `measure` can be called."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in __all__:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    with _explained():
        value = getattr(import_module(_HOMES[name]), name) if name in _HOMES else import_module(f"nas.{name}")
    globals()[name] = value
    return value


@contextmanager
def _explained() -> Iterator[None]:
    """Within, a package that is missing and that an extra brings is a UserError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as problem:
        from nas.base.errors import of_package

        if explained := of_package(problem):
            raise explained from None
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Callable(ModuleType):
    """A package that is a function of the API as well: `nas.search(...)`, and `nas.search.run` in it."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with _explained():
            return self._function(*arguments, **options)

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(import_module("nas.api"), self.__name__.rpartition(".")[2])


for _package in ("nas.search", "nas.measure"):  # which say what they are for, and import nothing
    import_module(_package).__class__ = _Callable
