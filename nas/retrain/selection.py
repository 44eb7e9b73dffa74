"""Chooses networks of a run to retrain: diverse members of its front, and two controls to compare them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.base.errors import UserError
from nas.base.seeds import keyed_seed
from nas.runs.pareto import as_points, farthest_points, front
from nas.runs.record import TrialRecord, scan_records

COST_NAMES = ("latency_ms", "num_macs", "num_params")
CLOSE = 0.1


def choose(run_dir: Path, objectives: Any, count: int) -> dict[str, TrialRecord]:
    """Role -> trial: front-1 to front-N from cheap to dear, best-single-operator, random.

    The front members are the two ends and then, one after the other, whoever is farthest from those chosen, each
    objective scaled to its range. The random control is any other complete trial whose cost is within a tenth of the
    middle front member's (else the closest one), so that it costs what the front costs. Controls that are on the front
    or do not exist are left out. Raises UserError for a run without complete trials.
    """
    records, _ = scan_records(run_dir)
    complete = [record for record in records if record.state == "complete"]
    if not complete:
        raise UserError(f"{run_dir}: no trial was trained to the end, so there is no front")
    members = spread(front(complete, objectives), objectives, count)
    chosen = {f"front-{number}": record for number, record in enumerate(members, start=1)}
    for role, control in (("best-single-operator", _best_single_operator), ("random", _random_control)):
        taken = {record.key for record in chosen.values()}
        if record := control([record for record in complete if record.key not in taken], members[len(members) // 2]):
            chosen[role] = record
    return chosen


def _best_single_operator(others: list[TrialRecord], middle: TrialRecord) -> TrialRecord | None:
    """The most accurate network with one kind of operator."""
    single = [record for record in others if len(operators(record)) == 1]
    return max(single, key=lambda record: record.objectives.get("top1", -np.inf), default=None)


def _random_control(others: list[TrialRecord], middle: TrialRecord) -> TrialRecord | None:
    """Any network whose cost is within a tenth of the middle front member's, else the closest one."""
    cost = next((name for name in COST_NAMES if name in all_costs(middle)), None)
    if cost is not None:
        others = [record for record in others if cost in all_costs(record)]
    if not others:
        return None
    close = others
    if cost is not None:
        aim = all_costs(middle)[cost]
        distance = {id(record): abs(all_costs(record)[cost] / aim - 1) for record in others}
        near = [record for record in others if distance[id(record)] <= CLOSE]
        close = near or [min(others, key=lambda record: distance[id(record)])]
    return close[keyed_seed("control", *sorted(record.key for record in close)) % len(close)]


def spread(members: list[Any], objectives: Any, count: int) -> list[Any]:
    """At most `count` members of a front that lie far apart, in the order given: the ends, then whoever is farthest."""
    ends = [0, len(members) - 1][: max(count, 1)]
    chosen = farthest_points(as_points(members, objectives), ends, count)
    return [members[row] for row in sorted(chosen)]


def operators(record: TrialRecord) -> set[str]:
    """The kinds of operators in a network's main slots."""
    return {block["operator"]["op"] for stage in record.genotype["stages"] for block in stage}


def all_costs(record: TrialRecord) -> dict[str, float]:
    return record.costs | record.objectives
