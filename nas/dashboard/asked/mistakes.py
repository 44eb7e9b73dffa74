"""What `nas evaluate` kept of what a trained network confuses, read and checked for the page of its trial."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.base.section import EMBEDDED
from nas.dashboard.details import run_path
from nas.runs.folder import proxy_folder
from nas.runs.reader import GARBLED, RunReader
from nas.runs.retrainings import MISTAKES

MOST_BYTES, MOST_CLASSES, MOST_SHOWN = 2_000_000, 40, 60
PNG = re.compile(r"[A-Za-z0-9+/]{20,40000}={0,2}")


def mistakes(run: RunReader, key: str, trainings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each finished long training of a network, and of the search's own where that was evaluated, what it confuses
    (`found`, None where `nas evaluate` has not been run) and the `command` that finds it out again."""
    folders = {
        one["name"]: run.path / "retrain" / "-".join(filter(None, (key, one["name"])))
        for one in trainings
        if one["done"]
    }
    shown = [
        {
            "of": f"retrained ({name})" if name else "retrained",
            "found": _read(folder),
            "command": _command(run, key, name),
        }
        for name, folder in folders.items()
    ]
    if key.isalnum() and (found := _read(proxy_folder(run.path, key))):
        command = shlex.join(["nas", "evaluate", run_path(run), "--key", key, "--weights", "proxy"])
        shown.append({"of": "weights of the search", "found": found, "command": command})
    return shown


def _command(run: RunReader, key: str, name: str) -> str:
    command = ["nas", "evaluate", run_path(run), "--key", key, *(["--name", name] if name else [])]
    needs_data = run.config is None or run.config.retrain.dataset not in EMBEDDED
    given = run.config.proxy.data_dir if run.config else None  # which is what the command takes by itself
    return shlex.join([*command, "--data", "DIR"] if needs_data and not given else command)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / MISTAKES
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        return _checked(json.loads(path.read_text(encoding="utf-8")))
    except GARBLED:
        return None


def _checked(given: Any) -> dict[str, Any]:
    """The same in the types that the page shows. Raises what GARBLED has for something else."""
    matrix, names = given["matrix"], given["class_names"]
    if matrix is not None:
        names, matrix = [str(name) for name in names], [[int(count) for count in row] for row in matrix]
        if len(names) > MOST_CLASSES or {len(matrix), *map(len, matrix)} != {len(names)}:
            raise ValueError("a matrix has a row and a column for each class")
    return {
        **{name: str(given[name]) for name in ("weights", "data")},
        **{name: int(given[name]) for name in ("resolution", "num_images", "num_wrong")},
        "class_names": names,
        "matrix": matrix,
        "pairs": [_pair(pair) for pair in given["pairs"][:MOST_SHOWN]],
        "images": [_image(image) for image in given["images"][:MOST_SHOWN]],
    }


def _pair(given: Any) -> dict[str, Any]:
    return {name: str(given[name]) for name in ("label", "predicted")} | {
        name: int(given[name]) for name in ("count", "of")
    }


def _image(given: Any) -> dict[str, Any]:
    probability = float(given["probability"])
    if not PNG.fullmatch(given["png"]) or not math.isfinite(probability):
        raise ValueError("an image is a PNG in Base64 with a probability")
    return {
        "index": int(given["index"]),
        "file": None if given["file"] is None else str(given["file"]),
        **{name: str(given[name]) for name in ("label", "predicted", "png")},
        "probability": probability,
    }
