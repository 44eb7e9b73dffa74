"""What the trials of an Optuna study have to teach: values, curves, costs, constraints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from nas.runs.pareto import pareto_mask
from nas.search.surrogate.axes import Space

MOST_POINTS = 500
"""Trials that a proposal is made from; of more, the best half and the latest."""


@dataclass(frozen=True)
class Lesson:
    """What a trial has to learn from."""

    trial: FrozenTrial
    effective: tuple[int, ...] | None
    """Positions in the choices, -1 for what is not in effect; None where a value is not among them."""
    curve: Mapping[int, float]
    costs: Mapping[str, float]
    costs_only: bool = False
    """Whether the parameters may be proposed again: nothing but costs was asked for."""


def constraints_of(trial: FrozenTrial) -> dict[str, float]:
    """What `constraints_func` said of a trial, by names of our own."""
    return {f"constraint {at}": float(value) for at, value in enumerate(trial.system_attrs.get("constraints") or ())}


def _attribute(trial: FrozenTrial, name: str) -> Any:
    """A user attribute of ours, written as JSON; None where it is absent or somebody else's."""
    try:
        return json.loads(trial.user_attrs[name])
    except (KeyError, TypeError, ValueError):
        return None


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """Values after epochs, the first of which is 1; what was reported to a pruner counts its steps from 0."""
    try:
        given = dict(
            _attribute(trial, "curve") or {step + 1: value for step, value in trial.intermediate_values.items()}
        )
        return {int(epoch): float(value) for epoch, value in given.items() if np.isfinite(value)}
    except (TypeError, ValueError):
        return {}


def lesson_of(space: Space, trial: FrozenTrial, memory: dict[int, Lesson]) -> Lesson:
    """What a trial has to learn from; of a finished one, which does not change any more, from memory."""
    if (kept := memory.get(trial.number)) is not None and kept.trial is trial:
        return kept
    costs = _attribute(trial, "costs")
    lesson = Lesson(
        trial,
        None
        if space.row(trial.params) is None
        else tuple(space.in_effect({name: trial.params[name] for name in space.names})),
        _curve(trial),
        (costs if isinstance(costs, dict) else {}) | constraints_of(trial),
        _attribute(trial, "costs_only") is True,
    )
    if trial.state.is_finished():
        memory[trial.number] = lesson
    return lesson


def most_telling(lessons: list[Lesson], signs: Sequence[int]) -> list[Lesson]:
    """All lessons where they are few; else, in their order, those of running trials, half of the others by the fronts
    that they are on, the first ones first, and the latest."""
    if len(lessons) <= MOST_POINTS:
        return lessons
    states = [lesson.trial.state for lesson in lessons]
    running = [at for at, state in enumerate(states) if state == TrialState.RUNNING]
    complete = np.array([at for at, state in enumerate(states) if state == TrialState.COMPLETE], int)
    points = np.array([lessons[at].trial.values for at in complete]).reshape(len(complete), len(signs)) * signs
    best: list[int] = []
    while len(complete) and len(best) < MOST_POINTS // 2:
        front = pareto_mask(points)
        best += complete[front].tolist()
        complete, points = complete[~front], points[~front]
    kept = {*running, *best[: MOST_POINTS // 2]}
    telling = (
        at
        for at in reversed(range(len(lessons)))
        if lessons[at].curve or lessons[at].costs or states[at] == TrialState.COMPLETE
    )
    for at in telling:
        if len(kept) >= MOST_POINTS + len(running):
            break
        kept.add(at)
    return [lessons[at] for at in sorted(kept)]
