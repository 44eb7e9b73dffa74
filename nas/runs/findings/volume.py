"""Hypervolume of a run: its share now, what the last trainings added, how it grew; and of several runs to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.config.evaluators import FIGURES
from nas.config.sections import FREE_COSTS
from nas.runs.pareto import hypervolume, hypervolume_growth, pareto_mask, reference_point
from nas.runs.reader import RunReader

FEWEST = 3
# how many of the last trainings tell whether going on is worth it: a tenth, between these
FEWEST_FOR_A_GAIN, MOST_FOR_A_GAIN = 10, 500
MOST_STEPS = 400


@dataclass(frozen=True)
class Standing:
    """What compares a run with others: of which problem it has which front [N, M], lower is better."""

    problem: str
    """Objectives and how they are measured, what judges in the end, the short training, and the device where one is
    measured on it."""
    front: NDArray[np.float64]
    worst: NDArray[np.float64]
    """[M] of all its complete trials."""


def standing(run: RunReader) -> Standing | None:
    """None for a single objective and where no trial is complete."""
    points = run.rows.trained_points(run.objectives)
    complete = points[(points == points).all(axis=1)]
    if run.config is None or len(run.objectives) < 2 or not len(complete):
        return None
    objectives = [objective.model_dump(mode="json") for objective in run.objectives]
    measured = any(objective.name not in (*FIGURES, *FREE_COSTS) for objective in run.objectives)
    device = (run.environment.get("device") or run.environment.get("processor")) if measured else None
    judge = run.config.evaluators[-1].model_dump()
    problem = json.dumps([objectives, run.config.proxy.model_dump(mode="json"), device, judge], sort_keys=True)
    return Standing(problem, complete[pareto_mask(complete)], complete.max(axis=0))


def common_shares(standings: Mapping[str, Standing | None]) -> dict[str, dict[str, Any] | None]:
    """Name of a run -> its hypervolume as a share of the one box that all runs of the same problem span, and of these
    the others; None for a run that is alone: a share of its own box would not compare."""
    alike: dict[str, list[str]] = {}
    for name, one in standings.items():
        if one is not None:
            alike.setdefault(one.problem, []).append(name)
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(standings)
    for names in alike.values():
        if len(names) < 2:
            continue
        group = [one for name in names if (one := standings[name])]
        ideal = np.min([one.front.min(axis=0) for one in group], axis=0)
        reference = reference_point(np.array([ideal, *(one.worst for one in group)]))
        box = float((reference - ideal).prod())
        for name, one in zip(names, group, strict=True):
            others = [other for other in names if other != name]
            found[name] = {"share": hypervolume(one.front, reference) / box, "others": others}
    return found


def compared(runs: Mapping[str, Path]) -> dict[str, dict[str, Any] | None]:
    """`common_shares` of runs by their folders."""
    return common_shares({name: standing(RunReader(path).refresh()) for name, path in runs.items()})


def gain(run: RunReader) -> dict[str, Any] | None:
    """The hypervolume as a share of the box between the best values and the reference, and what came lately.

    None for a single objective and below three complete trials, where it says nothing.
    """
    points = run.rows.trained_points(run.objectives)
    complete = points[(points == points).all(axis=1)]
    if len(run.objectives) < 2 or len(complete) < FEWEST:
        return None
    reference = reference_point(complete)
    box = float((reference - complete.min(axis=0)).prod())
    window = min(max(len(points) // 10, FEWEST_FOR_A_GAIN), MOST_FOR_A_GAIN)
    value = hypervolume(complete, reference)
    # the share of the value that the last trainings added says nothing while they are nearly all there are
    added = 1 - hypervolume(points[:-window], reference) / value if len(points) >= 2 * window else None
    return {"share": value / box, "added": added, "window": window}


def curve(run: RunReader) -> dict[str, list[float]] | None:
    """Share of the box after so many trainings, where it changed; None where `gain` is."""
    points = run.rows.trained_points(run.objectives)
    complete = points[(points == points).all(axis=1)]
    if len(run.objectives) < 2 or len(complete) < FEWEST:
        return None
    steps, shares = hypervolume_growth(points, MOST_STEPS)
    return {
        "trainings": [*(step + 1 for step in steps), len(points)],
        "share": [round(share, 5) for share in [*shares, shares[-1]]],
    }
