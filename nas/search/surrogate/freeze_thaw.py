"""Freeze-thaw: whether a training that waits goes on, or another begins, by what they are worth per epoch.

In the manner of https://arxiv.org/abs/1406.3896, on several objectives and with the models of the sampler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.runs.pareto import hypervolume
from nas.search.surrogate.axes import Params
from nas.search.surrogate.posterior import STARTUP, Array, Posterior
from nas.search.surrogate.proposal import Proposal
from nas.search.surrogate.worth import best_rate

MOST_NEW = 40
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Schedule:
    """A training: its epochs, and those after which it waits."""

    epochs: int
    rungs: Sequence[int]


def choice(
    proposal: Proposal, waiting: Mapping[int, int], schedule: Schedule, may_begin: bool
) -> tuple[int | None, Params | None]:
    """The number of the trial that goes on, of `waiting` ones and the epochs that they have, or the parameters of one
    that begins, or neither.

    Where none `may_begin`, a trial goes on if it is expected to add a thousandth to the hypervolume. Until six have
    come to a rung, others begin.
    """
    posterior = proposal.posterior
    if posterior.judges.sum() < STARTUP:
        return (None if may_begin else min(waiting, default=None)), None
    posterior.fit()
    positions = [at for at, trial in enumerate(posterior.trials) if trial.number in waiting]
    effective = posterior.effective[positions]
    mean, spread = posterior.predict(effective, [posterior.known(at) for at in positions])
    allowed = posterior.allowed(effective)
    numbers = [posterior.trials[at].number for at in positions]
    done = np.array([waiting[number] for number in numbers], float)
    rates = _rates(posterior, mean, spread, done, schedule) * allowed
    if not may_begin:
        least = LEAST_GAIN * hypervolume(posterior.front, posterior.reference)
        rates[posterior.gain(mean, spread) * allowed <= least] = 0.0
        return (numbers[int(np.argmax(rates))] if rates.any() else None), None
    candidates, scores = proposal.searched()
    best = np.argsort(-scores, kind="stable")[:MOST_NEW]
    mean, spread = posterior.predict(candidates.effective[best], [candidates.known[at] for at in best])
    new = _rates(posterior, mean, spread, np.zeros(len(best)), schedule) * posterior.allowed(candidates.effective[best])
    if rates.max(initial=0.0) > new.max():
        return numbers[int(np.argmax(rates))], None
    return None, proposal.space.params(candidates.rows[best[int(np.argmax(new))]].tolist())


def _rates(posterior: Posterior, mean: Array, spread: Array, done: Array, schedule: Schedule) -> Array:
    """The best rate [N] of trainings that have `done` epochs [N], over all epochs at which they may be looked at."""
    rates = posterior.gain(mean, spread) / (schedule.epochs - done)
    for rung in schedule.rungs:
        variance = posterior.left.get(rung, posterior.variance)
        there = done < rung
        rates[there] = np.maximum(
            rates[there],
            best_rate(
                posterior.gain,
                mean[there],
                spread[there],
                posterior.trained,
                rung - done[there],
                np.full(there.sum(), float(schedule.epochs - rung)),
                variance,
            ),
        )
    return rates
