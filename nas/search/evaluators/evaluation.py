"""Evaluators at work in a trial: what they say of its network and what that takes; and filters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, Protocol

from nas.base.files import write_atomically
from nas.search.evaluators.context import Candidate
from nas.search.evaluators.registry import find_evaluator
from nas.search.evaluators.rows import evaluation

NEAREST = 24
"""Networks that a filter compares a candidate with: those whose costs are nearest."""


class Clock(Protocol):
    phases: dict[str, float]

    def phase(self, name: str) -> AbstractContextManager[None]: ...


class Rejected(Exception):
    """A candidate that must not be trained."""


def judged(candidate: Candidate, clock: Clock, evaluations: list[dict[str, Any]]) -> Iterator[dict[str, float]]:
    """The rows of the last evaluator; its evaluation is appended, also of a training that fails on its way."""
    stage, rows = candidate.stage, []
    judging, figure = find_evaluator(stage.name).judge(candidate), math.nan
    try:
        with closing(judging):
            while True:
                try:
                    with clock.phase(stage.name):  # not while the caller reports the row
                        row = next(judging)
                except StopIteration as end:
                    figure = end.value
                    return
                rows.append(row)
                yield row
    finally:
        # rows have the epochs of earlier processes too
        seconds = max(sum(row["seconds"] for row in rows), clock.phases[stage.name])
        evaluations.append(evaluation(candidate.stage, figure, seconds, len(rows)) | candidate.beside)


def filtered(
    candidate: Candidate, clock: Clock, costs: Mapping[str, Any], compared: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """The evaluation by a filter. It has `rejected`, the reason, where the score is not among the best of those of
    `compared` that cost about as much.

    It is kept in the trial's folder, so that whoever goes on with the trial scores and decides nothing anew.
    """
    path, stage = candidate.folder / f"{candidate.stage.figure}.json", candidate.stage
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == candidate.key:
            return kept["evaluation"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing is kept yet, or not all of it was written: the same score comes out again
    judging = find_evaluator(stage.name).judge(candidate)
    with clock.phase(stage.name):
        try:
            while True:
                next(judging)
        except StopIteration as end:
            score = end.value
    found = evaluation(stage, score, clock.phases[stage.name], 0)
    near = nearest(compared, costs)
    better = sum(other["score"] > score for other in near)
    if near and math.isfinite(score) and better >= stage.share_kept * len(near):
        found["rejected"] = (
            f"{stage.name}: {better} of the {len(near)} scored networks that cost about as much have more than "
            f"{stage.label} {score:.6g}; the best {stage.share_kept:.0%} are trained"
        )
    write_atomically(path, json.dumps({"key": candidate.key, "evaluation": found}))
    return found


def check_passed(found: Mapping[str, Any]) -> None:
    """Raise Rejected where a filter rejects."""
    if "rejected" in found:
        raise Rejected(found["rejected"])


def nearest(compared: Sequence[Mapping[str, float]], costs: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The NEAREST of scored networks by the greatest ratio of a cost; the latest where nothing tells them apart."""

    def distance(other: Mapping[str, float]) -> float:
        pairs = [(value, costs[name]) for name, value in other.items() if name != "score"]
        return max((abs(math.log(max(a, 1e-12) / max(b, 1e-12))) for a, b in pairs), default=0.0)

    return sorted(reversed(compared), key=distance)[:NEAREST]
