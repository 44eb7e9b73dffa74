"""What a host has of what a trial needs. Sent to hosts by value, as they may not have this package: standard library
only, and nothing of this module but its functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Whether the process that this runs in could run trials: what is wrong, in words, the host and its processor.

    `asked` has the `code` to find, a `file` that must be there, the folder of the `data`, and what a `storage` is made
    of and the text that must be there; None for what is not needed.
    """
    import importlib
    import socket
    from importlib.util import find_spec

    wrong, processor = [], None
    found = find_spec("nas")
    if found is None or not found.submodule_search_locations:
        wrong.append("the package opnas is not installed; install it there, or send it with --ship")
    else:
        package = Path(next(iter(found.submodule_search_locations)))
        code = code_of(package)
        if code != asked["code"]:
            wrong.append(
                f"its opnas in {package.parent} ({code}) is not the one here ({asked['code']}); install the same, or "
                "send it with --ship"
            )
        else:
            try:
                importlib.import_module("nas.search.trial")
                processor = importlib.import_module("nas.base.machine").processor()
            except Exception as problem:
                wrong.append(f"a trial cannot start: {type(problem).__name__}: {problem}")
    if asked["storage"] is not None and processor is not None:
        try:
            store = importlib.import_module("nas.search.cluster.store").Store(*asked["storage"])
            if store.marked() != asked["text"]:
                raise OSError("is another folder there")
        except Exception as problem:
            wrong.append(f"resources.storage_path: {asked['storage'][0]}: {str(problem).strip().splitlines()[0]}")
    if asked["file"] is not None and not Path(asked["file"]).is_file():
        wrong.append(
            f"it does not see the run folder {Path(asked['file']).parent.parent}; put it on a disk that all share, or "
            "say in resources.storage_path where all can keep checkpoints"
        )
    if asked["data"] is not None and not Path(asked["data"]).is_dir():
        wrong.append(f"it does not have the data, {asked['data']}")
    return {"host": socket.gethostname(), "wrong": wrong, "processor": processor}


def code_of(package: Path) -> str:
    """A hash of the code in the folder of the package, and of those beside it that belong to it."""
    import hashlib
    import os

    digest = hashlib.blake2b(digest_size=6)
    for folder in packages_of(package):
        found = os.walk(folder, followlinks=True)  # in a checkout nas/kernels is a link
        files = [Path(root, name) for root, _, names in found for name in names if name.endswith(".py")]
        for path in sorted(files):
            digest.update(f"{path.relative_to(folder.parent).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def packages_of(package: Path) -> list[Path]:
    """The folders that `nas` needs to run: its own, and those beside it that belong to it."""
    folders = [package.parent / name for name in ("nas", "search_spaces")]
    return [folder for folder in folders if (folder / "__init__.py").is_file()]


def forget(run: str) -> None:
    """Remove what workers kept on this host of a run with a store."""
    import importlib
    import shutil

    shutil.rmtree(importlib.import_module("nas.search.cluster.store").scratch(run), ignore_errors=True)
