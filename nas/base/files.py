"""Files that are whole or absent after a crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file's content durably; readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    with _replacing(path, Path(name)) as temporary:
        temporary.write_text(text, encoding="utf-8")
        os.chmod(temporary, mode)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write a large file to, which becomes `path`, durably, when the context ends without an exception.

    For files that one process at a time writes: the temporary name, `<path>.partial`, is always the same, so that what
    a killed process left is replaced by the next one and does not pile up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path, path.with_name(f"{path.name}.partial")) as temporary:
        yield temporary


@contextmanager
def _replacing(path: Path, temporary: Path) -> Iterator[Path]:
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as problem:
        temporary.unlink(missing_ok=True)  # on a full disk what it took would be missing for the rest
        if isinstance(problem, OSError):
            problem.filename = problem.filename or str(path)  # a full disk does not say what it could not take
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the system write a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
