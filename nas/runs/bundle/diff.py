"""diff: what tells two runs apart: experiment, environment, front, and the networks that both trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nas.config.evaluators import trained_value
from nas.config.reading import load
from nas.runs.folder import flat
from nas.runs.pareto import hypervolume, reference_point
from nas.runs.reader import RunReader
from nas.runs.report_text import operators_text

NOT_COMPARED = ("time", "id", "argv")


def diff(first: Path, second: Path) -> dict[str, Any]:
    """`config` and `environment` as path -> [value there, value here] of what differs; `front` with the keys that are
    on both and on one alone; `hypervolume` of both as shares of one box, None where objectives differ or a run has no
    front; `common`, of networks complete in both: how many, and by how much the second's accuracy is higher (mean and
    standard deviation)."""
    runs = [RunReader(path).refresh() for path in (first, second)]
    configs = [flat(_config(path)) for path in (first, second)]
    environments = [
        flat({name: run.environment[name] for name in run.environment.keys() - {*NOT_COMPARED}}) for run in runs
    ]
    fronts = [{row.key: row for row in run.front()} for run in runs]
    shown = {key: operators_text(row.operators) for front in fronts for key, row in front.items()}
    return {
        "runs": [run.name for run in runs],
        "config": _apart(*configs),
        "environment": _apart(*environments),
        "front": {
            "both": sorted(fronts[0].keys() & fronts[1].keys()),
            "only": [sorted(fronts[0].keys() - fronts[1].keys()), sorted(fronts[1].keys() - fronts[0].keys())],
            "operators": shown,
        },
        "hypervolume": _volumes(*runs),
        "common": _common(*runs),
    }


def to_text(found: dict[str, Any]) -> str:
    first, second = found["runs"]
    lines = [f"{first} -> {second}"]
    for title in ("config", "environment"):
        lines.append(f"{title}: " + ("the same" if not found[title] else ""))
        lines += [f"  {name}: {_word(a)} -> {_word(b)}" for name, (a, b) in found[title].items()]
    front = found["front"]
    lines.append(f"networks on both fronts: {len(front['both'])}")
    for name, keys in zip((first, second), front["only"], strict=True):
        lines += [f"  on that of {name} alone: {key}  {front['operators'][key]}" for key in keys]
    if found["hypervolume"]:
        one, other = found["hypervolume"]["shares"]
        lines.append(f"hypervolume: {one:.4f} -> {other:.4f} of the box that the best values of both span")
    if found["common"]:
        common = found["common"]
        spread = "" if common["sd"] is None else f", standard deviation {100 * common['sd']:.2f}"
        change = f"{100 * common['change']:+.2f} % on average{spread}"
        lines.append(f"top-1 of the {common['count']} networks in both: {change}")
    return "\n".join(line.rstrip() for line in lines)


def _config(path: Path) -> dict[str, Any]:
    try:
        return load(path / "resolved.yaml").model_dump(mode="json")
    except (ValueError, OSError):
        return {}


def _apart(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    names = sorted(one.keys() | other.keys())
    return {name: [one.get(name), other.get(name)] for name in names if one.get(name) != other.get(name)}


def _volumes(one: RunReader, other: RunReader) -> dict[str, Any] | None:
    """Shares of the box between the best values of both runs and the reference point of all their trials."""
    names = [objective.name for objective in one.objectives]
    if names != [objective.name for objective in other.objectives] or len(names) < 2:
        return None
    points = [run.rows.trained_points(run.objectives) for run in (one, other)]
    points = [each[~np.isnan(each).any(axis=1)] for each in points]
    if not all(map(len, points)):
        return None
    together = np.concatenate(points)
    reference, ideal = reference_point(together), together.min(axis=0)
    signs = [-1 if objective.maximize else 1 for objective in one.objectives]
    shares = [hypervolume(each, reference) / float((reference - ideal).prod()) for each in points]
    return {"reference": dict(zip(names, (reference * signs).tolist(), strict=True)), "shares": shares}


def _common(one: RunReader, other: RunReader) -> dict[str, Any] | None:
    accuracies = [
        {
            row.key: value
            for row in run.ordered()
            if row.state == "complete" and (value := trained_value(row.objectives)) is not None
        }
        for run in (one, other)
    ]
    changes = [accuracies[1][key] - accuracies[0][key] for key in accuracies[0].keys() & accuracies[1].keys()]
    if not changes:
        return None
    sd = float(np.std(changes, ddof=1)) if len(changes) > 1 else None
    return {"count": len(changes), "change": float(np.mean(changes)), "sd": sd}


def _word(value: Any) -> str:
    return "absent" if value is None else value if isinstance(value, str) else json.dumps(value)
