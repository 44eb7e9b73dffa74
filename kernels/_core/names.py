"""One package under two names: `nas.kernels` wherever opnas is, and `kernels` in the root of a checkout.

The name that is imported first is the one that is loaded; the other one is then the same modules, so that no operation
is registered twice. A distribution of somebody else's that is called `kernels` is left alone.
"""

from __future__ import annotations

import filecmp
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

NAMES = ("kernels", "nas.kernels")


class SecondName(MetaPathFinder, Loader):
    """Finds this package, which is loaded as `first`, and its modules under the name `second` too."""

    def __init__(self, first: str, second: str, folder: Path):
        self.first, self.second, self.folder = first, second, folder

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        ours = fullname.startswith(f"{self.second}.") and sys.modules.get(self.second) is sys.modules[self.first]
        return ModuleSpec(fullname, self) if ours or self._is_package(fullname, path) else None

    def exec_module(self, module) -> None:
        """Puts the module that is loaded in the place of the empty one; for the package all that are.

        Importing a module sets its name in its package, where `involution` is a function once the package is loaded.
        """
        name = module.__name__
        sys.modules[name] = import_module(self.first + name.removeprefix(self.second))
        if name == self.second:
            loaded = [each for each in sys.modules if each.startswith(f"{self.first}.")]
            sys.modules.update({self.second + each.removeprefix(self.first): sys.modules[each] for each in loaded})

    def _is_package(self, fullname: str, path) -> bool:
        """Whether `fullname` is `second`, and what Python would load for it is our file or, in a source distribution,
        which has no links, a copy of it."""
        if fullname != self.second:
            return False
        found = (finder.find_spec(fullname, path) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
        return origin is not None and origin.is_file() and filecmp.cmp(origin, self.folder / "__init__.py", False)


def allow_both_names(loaded: str) -> None:
    """Let the package that is being loaded under one of NAMES be found under the other one as well."""
    (second,) = set(NAMES) - {loaded}
    sys.meta_path.insert(0, SecondName(loaded, second, Path(__file__).resolve().parents[1]))
