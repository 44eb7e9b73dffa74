"""when_imported: something done as soon as somebody imports a module that should not be imported for it alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def when_imported(name: str, told: Callable[[ModuleType], None]) -> None:
    """Call `told` with a module, now if it is imported already."""
    if name in sys.modules:
        told(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Waiting(name, told))


class _Waiting(MetaPathFinder):
    """Waits for one import."""

    def __init__(self, name: str, told: Callable[[ModuleType], None]):
        self.name, self.told = name, told

    def find_spec(self, fullname: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.told(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
