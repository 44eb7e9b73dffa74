"""What the surrogate sampler is told of a study besides its trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.distributions import BaseDistribution

from nas.search.surrogate.axes import Params
from nas.search.surrogate.lessons import Lesson

Limits = Mapping[str, tuple[float, float]]
Known = Callable[[Params], Mapping[str, float]]


def everything(params: Params) -> Params:
    """All parameters are in effect."""
    return params


def nothing(params: Params) -> dict[str, float]:
    """Nothing is known before training."""
    return {}


@dataclass(frozen=True)
class Knowledge:
    """What a sampler is told of a study besides its trials.

    `names` are those of the objectives, in the order of the study's directions; without them they are "0", "1" and so
    on. `space` is what is searched, where it is known before the first trial. `known(params)` gives, by name, values
    that are exact before any training, of objectives and of limited quantities; `estimated(params)` gives some of the
    others roughly, above 0: how far off that is in which networks is then what is learned of them. It names the same
    ones for all parameters, and needs `space`. `active(params)` leaves out parameters that have no effect: trials whose
    active ones are equal are repeats. `limits` are (lowest, highest) by name; a limited quantity that is neither an
    objective nor known is learned from the trials' attribute `costs`. `reference` has, by name, the worst values of
    objectives that are of use: nothing is gained beyond them. `repeats` has, by name and number of a trial, what an
    objective came to when the trial was trained again. `memory` has what was read of finished trials, by number, so
    that the next proposal need not; `estimates` what was estimated, by positions in effect; `chosen` has, by number,
    what was already found for trials that have not begun.
    """

    names: Sequence[str] = ()
    space: Mapping[str, BaseDistribution] | None = None
    known: Known = nothing
    active: Callable[[Params], Params] = everything
    limits: Limits = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    estimated: Known = nothing
    repeats: Mapping[str, Mapping[int, Sequence[float]]] = field(default_factory=dict)
    memory: dict[int, Lesson] = field(default_factory=dict)
    chosen: dict[int, Params] = field(default_factory=dict)
    estimates: dict[tuple[int, ...], Mapping[str, float]] = field(default_factory=dict)


class InfeasibleSpace(ValueError):
    """No candidate keeps the limits."""
