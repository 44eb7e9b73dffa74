"""The data of the page about a run: its experiment and its environment, without passwords."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from nas.base.passwords import hidden
from nas.runs.reader import RunReader
from nas.runs.summary import state_of


def about(run: RunReader) -> dict[str, Any]:
    """The experiment as given and with every default, the environment as [name, value] in words."""
    return {
        "run": run.name,
        "path": str(run.path),
        "state": state_of(run),
        "given": _text(run, "experiment.yaml"),
        "resolved": _text(run, "resolved.yaml"),
        "environment": _flat(run.environment),
    }


def _text(run: RunReader, name: str) -> str | None:
    try:
        return hidden((run.path / name).read_text(errors="replace", encoding="utf-8"))
    except OSError:
        return None


def _flat(data: dict[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for name, value in data.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name} ")
        else:
            rows.append([f"{prefix}{name}", _words(name, value)])
    return rows


def _words(name: str, value: Any) -> str:
    if name == "time" and isinstance(value, int | float):
        with suppress(ValueError, OverflowError, OSError):  # no time
            return datetime.fromtimestamp(value, timezone.utc).isoformat(" ", "seconds")
    return hidden(value if isinstance(value, str) else json.dumps(value))
