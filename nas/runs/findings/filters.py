"""Whether scores say anything of the networks of a run: by themselves, and by the run's own trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.config.evaluators import EvaluatorConfig, trained_value
from nas.config.sections import FREE_COSTS
from nas.runs.reader import RunReader
from nas.runs.retrainings import kendall
from nas.runs.trial_table import EVALUATORS, Row

BY_OPERATORS = 0.9
"""Share of the scores' variance from which on a score ranks operators and not networks."""
FEWEST_LEFT = 3
"""Networks more than unknowns, for that share to be told."""


@dataclass(frozen=True)
class Scored:
    """A network that a filter has scored."""

    score: float | None
    """None where it is no number."""
    operators: tuple[str, ...]
    """Names of the blocks' operators."""
    top1: float | None
    """None where it was not trained to the end."""


@dataclass(frozen=True)
class Verdict:
    """What is known of a filter's scores after `count` trainings."""

    count: int
    rejects: bool
    """Whether candidates may be rejected by them."""
    reason: str


def scores_of(run: RunReader) -> list[dict[str, Any]]:
    """What is known of each evaluator of a run that trains nothing: its `name` and `label`, of how many `networks` it
    said something, and why that is `meaningless`, if so. Of a filter also how it ranks those that were trained to their
    end, `tau`, beside `counted`, what counts alone do, each {tau, low, high, count} or None; and its last `verdict`."""
    stages = run.config.evaluators if run.config else []
    return [_of_stage(run, stage) for stage in stages if stage.name != "train"]


def _of_stage(run: RunReader, stage: EvaluatorConfig) -> dict[str, Any]:
    column = stage.name if stage.name in EVALUATORS else "own"
    rows = [row for row in run.ordered() if column in row.judged]
    scored = [Scored(row.value(stage.figure), tuple(sum(row.operators, ())), _top1(row)) for row in rows]
    found = {"name": stage.name, "label": stage.label, "networks": len(rows)}
    found |= {"meaningless": meaningless(scored) if len(scored) >= FEWEST_LEFT else None}
    if run.config is not None and stage == run.config.evaluators[-1]:
        return found
    trained = [row for row in rows if _top1(row) is not None]
    last = verdict(scored, stage.num_trained_first)
    return found | {
        "tau": _tau(trained, stage.figure),
        "counted": {name: _tau(trained, name) for name in FREE_COSTS},
        "verdict": last and asdict(last),
    }


def _top1(row: Row) -> float | None:
    return trained_value(row.objectives) if row.state == "complete" else None


def _tau(rows: Sequence[Row], name: str) -> dict[str, Any] | None:
    pairs = [(row.value(name), _top1(row)) for row in rows]
    return kendall([(one, top1) for one, top1 in pairs if one is not None and top1 is not None])


def verdict(scored: Sequence[Scored], trained_first: int) -> Verdict | None:
    """By the first `trained_first` x 1, 2, 4, ... networks that were trained, as far as there are so many; None before
    that. `scored` is in the order in which they were finished."""
    trained = [at for at, one in enumerate(scored) if one.top1 is not None]
    count = looked_at(len(trained), trained_first)
    if not count:
        return None
    seen = scored[: trained[count - 1] + 1]
    if reason := meaningless(seen):
        return Verdict(count, False, reason)
    pairs = [(one.score, one.top1) for one in seen if one.score is not None and one.top1 is not None]
    tau = kendall(pairs)
    if tau is None:
        return Verdict(count, False, "it puts the trained networks in no order")
    low, high = (tau["tau"] if tau[end] is None else tau[end] for end in ("low", "high"))
    assert low is not None
    return Verdict(count, low > 0, f"Kendall's tau {tau['tau']:.2f}, 95 % between {low:.2f} and {high:.2f}")


def looked_at(known: int, trained_first: int) -> int:
    """The greatest of `trained_first` x 1, 2, 4, ... that is not above the number of trainings; 0 before the first."""
    count = 0
    while max(2 * count, trained_first) <= known:
        count = max(2 * count, trained_first)
    return count


def meaningless(scored: Sequence[Scored]) -> str | None:
    """Why the scores rank no networks, whatever these are worth, if so."""
    scores = [one.score for one in scored if one.score is not None]
    if 2 * len(scores) <= len(scored):
        return f"it is no number for {len(scored) - len(scores)} of {len(scored)} networks"
    if len(set(scores)) == 1:
        return f"it is the same for {len(scores)} networks"
    share = told_by_operators(scores, [one.operators for one in scored if one.score is not None])
    if share is not None and share >= BY_OPERATORS:
        return f"{share:.0%} of it follows from which operators a network has, and how many of each"
    return None


def told_by_operators(scores: Sequence[float], operators: Sequence[Sequence[str]]) -> float | None:
    """The share of the variance of the scores that a linear model of the operators' shares of the blocks
    explains (adjusted R squared); None where there are too few networks or only one operator."""
    names = sorted({name for each in operators for name in each})
    shares = np.array([[each.count(name) / max(len(each), 1) for name in names] for each in map(list, operators)])
    rank = int(np.linalg.matrix_rank(shares))
    if len(names) < 2 or len(scores) - rank < FEWEST_LEFT:
        return None
    values = np.array(scores)
    left = values - shares @ np.linalg.lstsq(shares, values, rcond=None)[0]
    spread = values - values.mean()
    return 1 - float(left @ left) / (len(scores) - rank) * (len(scores) - 1) / float(spread @ spread)
