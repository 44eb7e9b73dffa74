"""The findings of a run as sentences, and the network that is recommended with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.config.evaluators import FIGURES
from nas.config.sections import ObjectiveConfig
from nas.runs.findings.effects import effects
from nas.runs.metrics import METRICS
from nas.runs.pareto import as_points
from nas.runs.reader import RunReader
from nas.runs.trial_table import Row, places

SURE = 0.95
LEAST_PROBABLE = 0.5
MOST_EFFECTS = 4


def findings(run: RunReader, members: Sequence[Row], entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`sentences` about a run, and `pick`, the key of a network with its `reason`, None below three members.

    `members` are those of the front from cheap to dear, `entries` what the report says of them.
    """
    said = [_operators(members), _costs(run), _noise(entries)]
    return {"sentences": [text for text in said if text], "pick": pick(members, entries, run.objectives)}


def pick(
    members: Sequence[Row], entries: Sequence[dict[str, Any]], objectives: Sequence[ObjectiveConfig]
) -> dict[str, str] | None:
    """The knee of the front: the member nearest to the best value of every objective, each scaled to its range on the
    front, of those that are on the front rather than not."""
    if len(members) < 3 or len(objectives) < 2:
        return None
    points = as_points(members, objectives)
    scaled = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    distance = np.linalg.norm(scaled, axis=1)
    doubtful = [entry["noise"] is not None and entry["noise"]["on_front"] < LEAST_PROBABLE for entry in entries]
    if not all(doubtful):
        distance[doubtful] = np.inf
    at = int(np.argmin(distance))
    best = points.min(axis=0)
    parts = []
    for column, objective in enumerate(objectives):
        metric, value = METRICS[objective.name], members[at].objectives[objective.name]
        less = metric.text(abs(float(points[at, column] - best[column])))
        compared = "the best" if points[at, column] == best[column] else f"{less} from the best"
        parts.append(f"{metric.title} {metric.stated(value)}, {compared}")
    return {"key": members[at].key, "reason": f"the knee of the front: {'; '.join(parts)}"}


def _operators(members: Sequence[Row]) -> str:
    """How many networks of the front have an operator in a stage, the most frequent first."""
    if not members:
        return ""
    stages, deepest = [], max(members, key=lambda row: len(row.operators))
    names = places(len(deepest.shape), len(deepest.operators))
    for stage, name in enumerate(names):
        found = Counter(label for row in members if stage < len(row.operators) for label in {*row.operators[stage]})
        most = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
        stages.append(f"{name} {', '.join(f'{label} {count}' for label, count in most)}")
    return f"of {len(members)} on the front have: {'; '.join(stages)}"


def _costs(run: RunReader) -> str:
    """What an operator changes, for the accuracy and the first cost, where that is beyond its error."""
    found = effects(run)
    if found is None:
        return ""
    names = [objective.name for objective in run.objectives]
    names = [name for name in names if name in FIGURES][:1] + [name for name in names if name not in FIGURES][:1]
    said = []
    for name in names:
        metric = METRICS[name]
        sure = [
            (abs(change["change"]), f"{row['label']} in {row['place']} {metric.signed(change['change'])}")
            for row in found["rows"]
            if (change := row["changes"].get(name)) and abs(change["change"]) > change["margin"]
        ]
        most = [text for _, text in sorted(sure, reverse=True)[:MOST_EFFECTS]]
        said.append(f"{metric.label} {', '.join(most) or 'nothing beyond the error'}")
    return f"a block in the place of {found['baseline']} changes (linear model): {'; '.join(said)}"


def _noise(entries: Sequence[dict[str, Any]]) -> str:
    """How many neighbours on the front noise does not tell apart."""
    beats = [entry["noise"]["beats_cheaper"] for entry in entries[1:] if entry["noise"] is not None]
    if not beats:
        return ""
    unsure = sum(probability < SURE for probability in beats)
    return (
        f"of {len(beats)} steps along the front {unsure} are within noise: less than {SURE:.0%} sure to gain accuracy"
    )
