"""Store: what trials save, in storage that all hosts reach, so that they can go on elsewhere without a shared disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from nas.base.errors import HostError, MachineError

SEEN = "seen"
RETRY_SECONDS = 60
"""How long each call of Google's storage is tried; by itself pyarrow tries for a quarter of an hour."""
REACH_SECONDS = 25.0


class Store:
    """Folders of files below `url`: a path, or a bucket such as s3://name/folder or gs://name/folder.

    Buckets are opened by pyarrow, other addresses by fsspec, with what their environment says of keys and regions.
    What goes wrong with them is a HostError, an address that cannot be opened a MachineError.
    """

    def __init__(self, url: str, run: str, retry_seconds: int = RETRY_SECONDS):
        """`run` keeps the files of one run apart from those of others."""
        self._files, root = _opened(url, retry_seconds)
        self._url, self._root = url, f"{root.rstrip('/')}/{run}"
        self._sent: dict[str, dict[str, tuple[int, int]]] = {}

    def mark(self, text: str) -> None:
        """Leave a text for `marked`; raises MachineError where nothing can be written."""
        try:
            self._write(SEEN, text.encode())
        except (OSError, ValueError) as error:  # the latter is pyarrow's for a name that no bucket may have
            raise MachineError(f"resources.storage_path: {self._url}: {_first_line(error)}") from None

    def marked(self) -> str:
        with self._files.open_input_stream(f"{self._root}/{SEEN}") as file:
            return file.read().decode()

    def send(self, folder: Path, name: str) -> None:
        """Bring the copy called `name` level with a folder: what changed since the last call is written, first what no
        manifest names yet; what has gone is removed."""
        sent = self._sent.setdefault(name, {})
        now = {}
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".partial":
                status = path.stat()
                now[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        try:
            for part in sorted(now, key=lambda part: (part.endswith(".json"), part)):
                if sent.get(part) != now[part]:
                    self._write(f"{name}/{part}", (folder / part).read_bytes())
            for part in sent.keys() - now.keys():
                self._files.delete_file(f"{self._root}/{name}/{part}")
        except OSError as error:
            raise self._lost(error) from None
        self._sent[name] = now

    def fetch(self, name: str, folder: Path) -> None:
        """Bring a folder level with the copy called `name`; where there is none, the folder stays as it is."""
        from pyarrow.fs import FileSelector, FileType

        prefix = f"{self._root}/{name}"
        try:
            found = self._files.get_file_info(FileSelector(prefix, allow_not_found=True, recursive=True))
            files = [info for info in found if info.type == FileType.File]
            if not files:
                return
            shutil.rmtree(folder, ignore_errors=True)
            for info in files:
                path = folder / info.path[len(prefix) :].lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._files.open_input_stream(info.path) as file:
                    path.write_bytes(file.read())
        except OSError as error:
            raise self._lost(error) from None
        self._sent[name] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                status = path.stat()
                self._sent[name][path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)

    def drop(self, name: str = "") -> None:
        """Remove the copy called `name`; without one, all of the run."""
        self._sent.pop(name, None)
        try:
            self._files.delete_dir(f"{self._root}/{name}".rstrip("/"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._lost(error) from None

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        with self._files.open_output_stream(path) as file:
            file.write(content)

    def _lost(self, error: OSError) -> HostError:
        return HostError(
            f"resources.storage_path: {self._url}: {_first_line(error)}; nothing that finished is lost: go on with "
            "--resume when it is back"
        )


def reach(storage: tuple[str, str], text: str = "", seconds: float = REACH_SECONDS) -> None:
    """Leave a text for `Store.marked` in the store of that address and run; raises MachineError where it cannot be
    opened, refuses, or does not answer in time."""
    refused: list[MachineError] = []

    def mark() -> None:
        try:
            Store(*storage, retry_seconds=1).mark(text)
        except MachineError as problem:
            refused.append(problem)

    thread = threading.Thread(target=mark, name="reach", daemon=True)
    thread.start()
    thread.join(seconds)
    if refused:
        raise refused[0]
    if thread.is_alive():
        raise MachineError(f"resources.storage_path: {storage[0]}: no answer in {seconds:g} s")


def scratch(run: str) -> Path:
    """Where a worker keeps the files of a run whose folder it does not see: this user's, for temporary files."""
    return Path(tempfile.gettempdir()) / f"opnas-scratch-{os.getuid()}" / run


def made_scratch(run: str) -> Path:
    """The same folder, made, for the eyes of this user alone; raises HostError where its parent is another user's."""
    folder = scratch(run)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid() or folder.parent.is_symlink():
        raise HostError(
            f"{folder.parent}: belongs to another user; set TMPDIR of the cluster's hosts to another folder"
        )
    folder.mkdir(exist_ok=True)
    return folder


def _opened(url: str, retry_seconds: int) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

    if "://" not in url:
        return LocalFileSystem(), url
    if url.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in url:
        url += f"{'&' if '?' in url else '?'}retry_limit_seconds={retry_seconds}"
    try:
        try:
            return FileSystem.from_uri(url)
        except ArrowInvalid:  # none of pyarrow's
            from fsspec.core import url_to_fs

            files, root = url_to_fs(url)
            return PyFileSystem(FSSpecHandler(files)), root
    except (OSError, ValueError, ImportError) as error:
        raise MachineError(
            f"resources.storage_path: {url}: {_first_line(error)}; allowed are a folder, s3://, gs:// and what fsspec "
            "has a package for"
        ) from None


def _first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(" error_info=")[0]  # what Google's library repeats in its own terms
