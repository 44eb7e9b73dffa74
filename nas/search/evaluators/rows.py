"""Evaluations as records have them, and as columns of the rows that a trial reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nas.config.evaluators import EvaluatorConfig


def in_row(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What filters said, as columns of a row that a trial reports; `of_rows` reads it again."""
    found = {}
    for evaluation in evaluations:
        for figure, value in evaluation["figures"].items():
            found |= {figure: value, f"{figure}_seconds": evaluation["seconds"]}
    return found


def of_rows(stages: Sequence[EvaluatorConfig], rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The evaluations of a trial that was stopped, from the rows that it reported."""
    if not rows:
        return []
    last = rows[-1]
    filters = [
        evaluation(stage, last[stage.figure], last[f"{stage.figure}_seconds"], 0)
        for stage in stages[:-1]
        if stage.figure in last
    ]
    return [*filters, evaluation(stages[-1], math.nan, sum(row["seconds"] for row in rows), len(rows))]


def evaluation(stage: EvaluatorConfig, figure: float, seconds: float, epochs: int) -> dict[str, Any]:
    """As a record has it: who judged, what it said, if anything, and what that took."""
    scored = {"score": stage.score_name} if stage.name == "zero_cost" else {}
    figures = {stage.figure: float(figure)} if math.isfinite(figure) else {}
    return {"evaluator": stage.name, **scored, "figures": figures, "seconds": seconds, "epochs": epochs}
