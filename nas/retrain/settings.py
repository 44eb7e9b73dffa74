"""settings.json: what a training is of, and what may be another when it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.base.files import write_atomically
from nas.retrain.job import RetrainError

Settings = dict[str, Any]


def _raised(before: Any, now: Any) -> str | None:
    if (now or 0) < (before or 0):
        return None
    return "what is trained stays, and from here on the schedule is that of the new length"


def _said(text: str) -> Callable[[Any, Any], str | None]:
    return lambda before, now: text


# setting -> what is said of another value; None where that value is refused
CHANGES: Mapping[str, Callable[[Any, Any], str | None]] = {
    "epochs": _raised,
    "cooldown_epochs": _raised,
    "patience_epochs": _said("counted over all epochs"),
    "device_batch_size": _said("batch norms see parts of another size, and what is drawn at random is drawn anew"),
    "compile": _said("equal up to rounding"),
    "recompute": _said("equal up to rounding"),
    "evaluation_images": _said("the evaluation images are not those of the epochs before"),
}


def check_settings(path: Path, settings: Settings) -> None:
    """Write down what a training is of; of one that goes on, say what is another than before.

    Weights to start from need not be named again. Raises RetrainError where it would be another training.
    """
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    if settings.get("weights") is None and "weights" in before:
        settings = settings | {"weights": before["weights"]}
    refused = []
    for name, now in settings.items():
        if (was := before.get(name)) == now:
            continue
        told = CHANGES[name](was, now) if name in CHANGES else None
        if told is None:
            refused.append(f"{name}: {was} -> {now}")
        elif name == "evaluation_images":
            print(f"note: {told}", file=sys.stderr, flush=True)
        else:
            print(f"note: retrain.{name}: {was} -> {now}; {told}", file=sys.stderr, flush=True)
    if refused:
        raise RetrainError(f"--resume: {path.parent} was begun with other settings: {'; '.join(refused)}")
    write_atomically(path, json.dumps(settings, indent=1))
