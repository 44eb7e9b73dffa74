"""What is named in a file and lies outside the package: operators, blocks, data sets, samplers, evaluators of others.

A name is `module:object`, of a module beside the experiment file or of an installed package. An installed package may
give short names to its own by entry points; they stand for the same `module:object`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.files import write_atomically

OWN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
YOUR_OWN = "MODULE:NAME of your own"
FOLDER = "code"
"""Where a run, a retraining and an export keep the files of the modules that they need."""
OURS = ("nas", "kernels", "search_spaces")


class ExtensionError(UserError):
    """A module or an object of it that is not there, cannot be imported, or does not provide what it must."""


def is_own(name: object) -> bool:
    """Whether a name is that of something outside the package."""
    return isinstance(name, str) and re.match(OWN, name) is not None


def full_name(group: str, name: str) -> str:
    """`module:object` of what an installed package calls `name` by an entry point of a group, else the name as it is.

    The groups are nas.operators, nas.blocks, nas.datasets, nas.samplers and nas.evaluators. Imports nothing.
    """
    found = [] if is_own(name) else list(metadata.entry_points(group=group, name=name))
    return found[0].value.replace(" ", "") if found else name


def short_names(group: str) -> list[str]:
    """The names that installed packages give by entry points of a group."""
    return sorted(metadata.entry_points(group=group).names)


def use_folder(folder: Path) -> None:
    """Let modules be found in a folder, before all others; what a run keeps stands for the folder of its file."""
    if (folder / "resolved.yaml").is_file() or (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    path = str(folder.resolve())
    if sys.path[:1] != [path]:
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)


def load(name: str) -> Any:
    """The object that `module:object` names; its module is imported. Raises ExtensionError."""
    module_name, _, attribute = name.partition(":")
    importlib.invalidate_caches()  # the file may just have been written
    try:
        _check_same(module_name.partition(".")[0])
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ExtensionError(
                f"{name!r}: there is no module {error.name!r} beside the file, on PYTHONPATH or installed"
            ) from None
        raise ExtensionError(f"{name!r}: {what_happened(error)}") from None
    except ExtensionError:
        raise
    except Exception as error:  # whatever a module of somebody else raises
        raise ExtensionError(f"{name!r}: {what_happened(error)}") from None
    if not hasattr(module, attribute):
        there = [word for word, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        raise ExtensionError(f"{name!r}: {_file(module)} has no {attribute!r}; it has {', '.join(there) or 'nothing'}")
    return getattr(module, attribute)


def load_callable(name: str, arguments: Iterable[str], options: Iterable[str] = ()) -> Any:
    """The object that a name stands for, which can be called with arguments, and with options by their names.

    Raises ExtensionError.
    """
    found, arguments, options = load(name), list(arguments), dict.fromkeys(options)
    try:
        inspect.signature(found).bind(*arguments, **options)
    except (TypeError, ValueError) as error:
        call = f"{name.partition(':')[2]}({', '.join([*arguments, *(f'{option}=' for option in options)])})"
        reason = f": {error}" if callable(found) else f"; it is of type {type(found).__name__}"
        raise ExtensionError(f"{name!r} must be callable as {call}{reason}") from None
    return found


def sources(names: Iterable[str]) -> dict[str, str]:
    """The Python files, path -> text, behind names that were loaded: of their modules and of those in the same folder
    that are loaded too. Files of installed packages are none of them: they are there wherever the package is."""
    tops = {name.partition(":")[0].partition(".")[0] for name in names}
    folders = {_folder(sys.modules[top]) for top in tops if top in sys.modules}
    found: dict[str, str] = {}
    for top, module in sorted(sys.modules.items()):
        folder = _folder(module) if "." not in top and top not in OURS else None
        if folder is None or folder not in folders or {"site-packages", "dist-packages"} & {*folder.parts}:
            continue
        package = folder / top
        files = sorted(package.rglob("*.py")) if package.is_dir() else [folder / f"{top}.py"]
        found |= {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files if path.is_file()}
    return found


def kept(folder: Path) -> dict[str, str]:
    """The files, path -> text, that `keep` wrote to the `code` folder of a run, a retraining or an export."""
    files = sorted((folder / FOLDER).rglob("*.py"))
    return {str(path.relative_to(folder / FOLDER)): path.read_text(encoding="utf-8") for path in files}


def keep(folder: Path, files: Mapping[str, str]) -> None:
    """Write files to the `code` folder in a folder, and let modules be found there."""
    for name, text in files.items():
        path = folder / FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
    if files:
        use_folder(folder)


def _check_same(top: str) -> None:
    """Raise ExtensionError where this process has another module of that name than a new one would import."""
    loaded = _origin(sys.modules[top]) if top in sys.modules else None
    there = PathFinder.find_spec(top) if loaded else None
    if there is None or there.origin is None or loaded is None or Path(there.origin) == loaded:
        return
    if not loaded.is_file() or loaded.read_bytes() != Path(there.origin).read_bytes():
        raise ExtensionError(
            f"{top!r}: {there.origin} differs from {loaded}, which this process has imported; start a new one"
        )


def _origin(module: Any) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _folder(module: Any) -> Path | None:
    """The folder in which a top-level module is found."""
    file = _origin(module)
    if file is None:  # a package without __init__.py, or a module that is no file
        folders = [str(folder) for folder in getattr(module, "__path__", ())]
        return Path(folders[0]).resolve().parent if folders else None
    return file.resolve().parent.parent if file.name == "__init__.py" else file.resolve().parent


def _file(module: Any) -> str:
    return str(_origin(module) or module.__name__)


def what_happened(error: BaseException) -> str:
    """The last line of somebody's file that an error went through, and the error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    paths = sysconfig.get_paths()
    others = ("<frozen", str(Path(__file__).parent.parent), *(paths[name] for name in ("stdlib", "purelib", "platlib")))
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame.filename.startswith(others)] or frames[-1:]
    location = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return f"{location}{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
