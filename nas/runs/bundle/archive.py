"""bundle: a run as one file, from which its report can be made again; opened without trust in what it holds.

A bundle is a zip file of the run's records, those of its replicates and retrainings, its experiment, environment,
choices of kernels and own modules, with `bundle.json`: the SHA-256 of each file, and what the run claims. It has no
images, no weights and no passwords. The same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.files import whole_file
from nas.base.passwords import hidden
from nas.runs.report import report

FORMAT = 1
MANIFEST = "bundle.json"
KIND = "opnas run"
MOST_BYTES = 4_000_000_000
"""Of all files unpacked: what is larger is no bundle that we wrote."""
FILES = re.compile(
    r"(experiment|resolved)\.yaml|(environment|choices|latency_table)\.json|trials/\d+\.json"
    r"|replicates/(asked\.json|\d+/trials/\d+\.json)|longer/[A-Za-z0-9][\w.-]*/(resolved\.yaml|trials/\d+\.json)|code/(\w+/)*\w+\.py"
    r"|retrain/(selection\.json|[A-Za-z0-9][\w.-]*/(config\.json|settings\.json|metrics\.csv|summary\.csv))",
    re.ASCII,
)
FOLDERS = ("", "trials", "replicates", "longer", "code", "retrain")
EPOCH = (1980, 1, 1, 0, 0, 0)
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def bundle(run_dir: Path, path: Path) -> Path:
    """Write a run to one file. Raises UserError where `run_dir` is no run."""
    contents = {name: _content(run_dir, name) for name in _names(run_dir)}
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "opnas": metadata.version("opnas"),
        "run": run_dir.resolve().name,
        "claims": claims(run_dir),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    listed = {MANIFEST: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode(), **contents}
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in listed.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(entry, content, compresslevel=9)
    return path


def claims(run_dir: Path) -> dict[str, Any]:
    """What a run says that it found, without what depends on when and where it is asked."""
    found = report(run_dir)
    same = (
        "num_trainings",
        "counts",
        "failures",
        "rejections",
        "replicates",
        "noise",
        "proxy_trust",
        "retrained",
        "agreement",
    )
    members = [{name: entry[name] for name in ("number", "key", "objectives", "noise")} for entry in found["front"]]
    volume = found["hypervolume"]
    return {
        **{name: found[name] for name in same},
        "front": members,
        "hypervolume": volume and {name: volume[name] for name in ("reference", "value")},
    }


@contextmanager
def opened(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The run in a bundle, in a folder that goes when the context ends, and its manifest.

    Raises UserError for a file that is no bundle, is damaged or holds what no bundle does; then nothing was unpacked.
    """
    contents, manifest = _read(path)
    name = str(manifest["run"])
    with tempfile.TemporaryDirectory(prefix="opnas-bundle-") as folder:
        run_dir = Path(folder) / (name if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name) else "run")
        (run_dir / "trials").mkdir(parents=True)
        for name, content in contents.items():
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (run_dir / name).write_bytes(content)
        yield run_dir, manifest


def _read(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Contents by name, and the manifest, all checked."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            strange = next((name for name in names if name != MANIFEST and not FILES.fullmatch(name)), None)
            if MANIFEST not in names:
                raise UserError(f"{path}: this is no bundle of a run: it has no {MANIFEST}")
            if strange is not None or len(set(names)) < len(names):
                what = f"holds {strange!r}" if strange is not None else "holds a name twice"
                raise UserError(f"{path}: {what}, which no bundle does; nothing was unpacked")
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise UserError(f"{path}: would unpack to more than {MOST_BYTES:,} bytes; nothing was unpacked")
            contents = {name: archive.read(name) for name in names}
            manifest = json.loads(contents.pop(MANIFEST))
    except UserError:
        raise
    except DAMAGED as problem:
        raise UserError(f"{path}: this is no bundle of a run, or it is damaged: {_line(problem)}") from None
    _check(path, contents, manifest)
    return contents, manifest


def _check(path: Path, contents: Mapping[str, bytes], manifest: Any) -> None:
    """Raise UserError where the manifest is none, or does not fit the files."""
    known = isinstance(manifest, dict) and manifest.get("kind") == KIND and isinstance(manifest.get("files"), dict)
    if not known or not isinstance(manifest.get("claims"), dict) or "run" not in manifest:
        raise UserError(f"{path}: its {MANIFEST} is not that of a bundle of a run")
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: a bundle of format {manifest.get('format')!r}; this version reads format {FORMAT}")
    listed = manifest["files"]
    if listed.keys() != contents.keys():
        name = sorted(listed.keys() ^ contents.keys())[0]
        raise UserError(f"{path}: {name} is {'missing' if name in listed else 'not in the list of its files'}")
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != listed[name]:
            raise UserError(f"{path}: {name} is not what was bundled (wrong SHA-256)")


def _names(run_dir: Path) -> list[str]:
    """Those of the files of a run that a bundle has, in order."""
    found = {
        path.relative_to(run_dir).as_posix()
        for folder in FOLDERS
        for path in ((run_dir / folder).rglob("*") if folder else run_dir.iterdir())
        if path.is_file() and not path.is_symlink()
    }
    return sorted(name for name in found if FILES.fullmatch(name))


def _content(run_dir: Path, name: str) -> bytes:
    content = (run_dir / name).read_bytes()
    if name.endswith((".yaml", "environment.json")):
        return hidden(content.decode(errors="replace")).encode()
    return content


def _line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
