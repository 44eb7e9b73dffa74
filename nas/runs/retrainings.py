"""The long trainings of a run's networks, read from retrain/<key>/, and how their order agrees with the search's."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.runs.listing import find_runs, is_run, stamp
from nas.runs.reader import RunReader

READABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
MISTAKES = "mistakes.json"
"""What `nas evaluate` keeps beside the weights of what the network confuses."""
TABLES = ("metrics.csv", "summary.csv")
ACCURACIES = ("top1", "eval_top1")
FEWEST_PAIRS = 3
FEWEST_PAIRS_FOR_AN_INTERVAL = 5
NORMAL_95 = 1.96


def signature(run_dir: Path) -> tuple[Any, ...]:
    """Changes when a training begins, goes on, or ends."""
    try:
        folders = sorted(folder for folder in (run_dir / "retrain").iterdir() if folder.is_dir())
    except OSError:
        return ()
    return tuple((folder.name, name, stamp(folder / name)) for folder in folders for name in ("config.json", *TABLES))


def read_retrainings(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Folder -> how far a training is: key and name, recipe, top1 and best_top1 as fractions, that of the search's own
    training (proxy_top1), epochs done and asked, done or not, since when (`changed`, Unix time), its curve.

    A training that has no readable figures yet is left out. `name` is empty where a network was trained once.
    """
    try:
        folders = sorted(folder for folder in (run_dir / "retrain").iterdir() if folder.is_dir())
    except OSError:
        return {}
    found = {folder.name: _read(folder) for folder in folders}
    return {
        folder: dict(zip(("key", "name"), folder.partition("-")[::2], strict=True)) | training
        for folder, training in found.items()
        if training
    }


def listed(run: RunReader, trainings: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What `read_retrainings` found of a run as rows without curves, each with the run's name, and the number and the
    latency_ms of the first complete trial of its network, None where no trial of the run is."""
    if not trainings:  # of many runs, all with many trials, few have any
        return []
    rows, keys, complete = run.rows, {one["key"] for one in trainings.values()}, run.rows.in_state("complete")
    trials = {key: rows.row(at) for at, key in reversed([*enumerate(rows.keys)]) if key in keys and complete[at]}
    return [
        {"run": run.name, "number": trial and trial.number, "latency_ms": trial and trial.value("latency_ms")}
        | {name: value for name, value in training.items() if name != "curve"}
        for training in trainings.values()
        for trial in [trials.get(training["key"])]
    ]


def retrained_folders(path: Path) -> dict[str, Path]:
    """Name -> folder of the runs in a folder, and of what has long trainings without being one, that have any, the
    newest run first; of a run, that alone."""
    runs = find_runs(path)
    if not is_run(path):
        others = sorted(folder for folder in path.iterdir() if folder.name not in runs)
        runs |= {folder.name: folder for folder in others}
    return {name: folder for name, folder in runs.items() if (folder / "retrain").is_dir()}


def best_of_each(trainings: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key -> the most accurate finished training of a network."""
    done = (training for training in trainings if training["done"])
    return {training["key"]: training for training in sorted(done, key=lambda training: training["top1"])}


def selected_roles(run_dir: Path) -> dict[str, str]:
    """Key -> why `nas retrain --front` chose a network, such as front-1 or random; empty where it was not used."""
    roles = _json(run_dir / "retrain" / "selection.json")
    return {str(key): str(role) for role, key in roles.items()}


def _read(folder: Path) -> dict[str, Any] | None:
    end = _json(folder / "config.json")
    settings = _json(folder / "settings.json") or end.get("training")
    settings = settings if isinstance(settings, dict) else {}
    curve = _curve(folder)
    accuracies = [row["top1"] for row in curve]
    ends = [value for name in ("top1", "best_top1") if (value := _number(end.get(name))) is not None]
    if not accuracies and not ends:
        return None
    return {
        "top1": ends[0] if ends else accuracies[-1],
        "best_top1": max(ends or accuracies),
        "proxy_top1": _number(end.get("proxy_top1")),
        "recipe": str(settings.get("recipe") or ""),
        "epochs": len(curve) or _number(end.get("epochs")),
        "asked": _sum(settings.get("epochs"), settings.get("cooldown_epochs")),
        "dataset": str(settings.get("dataset", "")),
        "num_classes": _number(end.get("num_classes")),
        "resolution": _number(end.get("resolution", settings.get("resolution"))),
        "done": bool(end),
        "changed": _changed(folder),
        "curve": curve,
    }


def _changed(folder: Path) -> float:
    """When the description, or before the end the table of epochs, was written."""
    found = next(filter(None, (stamp(folder / name) for name in ("config.json", *TABLES))), None)
    return found[0] / 1e9 if found else 0.0


def _curve(folder: Path) -> list[dict[str, float]]:
    """Epoch (from 1) and accuracy, as far as they are written; percentages become fractions."""
    for name in TABLES:
        try:
            with (folder / name).open(newline="", encoding="utf-8") as file:
                rows = [
                    {"epoch": float(row["epoch"]), "top1": float(row[column])}
                    for row in csv.DictReader(file)
                    for column in ACCURACIES
                    if row.get(column)
                ]
        except READABLE:
            continue
        rows = [row for row in rows if math.isfinite(row["top1"])]
        if rows:
            scale = 0.01 if max(row["top1"] for row in rows) > 1 else 1.0
            return [row | {"top1": row["top1"] * scale} for row in rows]
    return []


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except READABLE:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _sum(first: Any, second: Any) -> float | None:
    found = _number(first)
    return None if found is None else found + (_number(second) or 0)


def kendall(pairs: Sequence[tuple[float, float]]) -> dict[str, float | int | None] | None:
    """tau-b of [(proxy, retrained)] with an approximate 95 % interval; None below three pairs or without any order.

    The interval is Fisher's z with the variance 0.437 / (n - 4) of Fieller, Hartley and Pearson
    (https://doi.org/10.1093/biomet/44.3-4.470), so it needs five pairs; `low` and `high` are None below.
    """
    count = len(pairs)
    signs = [(_sign(a - c), _sign(b - d)) for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]]
    across, up = (sum(pair[side] != 0 for pair in signs) for side in (0, 1))
    if count < FEWEST_PAIRS or not across or not up:
        return None
    tau = sum(one * other for one, other in signs) / math.sqrt(across * up)
    if count < FEWEST_PAIRS_FOR_AN_INTERVAL or abs(tau) >= 1:
        return {"tau": tau, "low": None, "high": None, "count": count}
    middle, margin = math.atanh(tau), NORMAL_95 * math.sqrt(0.437 / (count - 4))
    return {"tau": tau, "low": math.tanh(middle - margin), "high": math.tanh(middle + margin), "count": count}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
