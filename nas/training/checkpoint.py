"""Checkpoints that survive crashes: written whole, verified by hash, the newest valid of the last two is read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch

from nas.base.files import whole_file, write_atomically

KEPT = 2
log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (tensors and plain data) as the newest checkpoint of `folder` and drop all but the last two.

    The file is whole and on disk before its manifest, which carries its SHA-256, says that it exists.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    older = _manifests(folder)
    path = folder / f"{_serial(older[-1]) + 1 if older else 1:08d}.pt"
    with whole_file(path) as partial:
        partial.write_bytes(content)
    manifest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(path.with_suffix(".json"), json.dumps(manifest))
    for outdated in older[: 1 - KEPT]:
        outdated.with_suffix(".pt").unlink(missing_ok=True)  # first: a crash now leaves what the next call removes
        outdated.unlink()
    return path


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest state of `folder` whose hash is right, its tensors on `device`; None where there is none.

    A damaged file is skipped with a warning. Nothing but tensors and plain data is ever unpickled.
    """
    for manifest in reversed(_manifests(folder)):
        path = manifest.with_suffix(".pt")
        try:
            content = path.read_bytes()
            expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: skipped, unreadable checkpoint (%s)", path, error)
            continue
        if hashlib.sha256(content).hexdigest() != expected:
            log.warning("%s: skipped, damaged checkpoint (wrong SHA-256)", path)
            continue
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return None


def _manifests(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob("[0-9]*.json"), key=_serial)


def _serial(manifest: Path) -> int:
    return int(manifest.stem)
