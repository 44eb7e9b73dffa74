"""What it is worth per epoch to begin a training, or to go on with one that waits, if it may stop once more later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
IMPROVEMENTS = 6


def best_rate(
    gain: Callable[[Array, Array], Array],
    mean: Array,
    spread: Array,
    trained: int,
    before: Array,
    after: Array,
    variance: float,
) -> Array:
    """Expected gain per epoch [N] of trainings that are looked at once more before they go on to their ends.

    `gain(mean, spread)` [N] is expected of a training that ended, whose objectives [N, M] are normal; column `trained`
    is what is trained for. A training takes `before` epochs [N] until it is looked at, and `after` [N] from there on;
    when it is looked at, its end is known but for `variance`. It goes on if what it then promises per epoch is at least
    what the whole is worth, which makes this the price at which one is indifferent to it: the Gittins index of a search
    with costs (https://arxiv.org/abs/2406.20062), for one look.
    """
    own = spread[:, trained] ** 2
    told = own / np.sqrt(np.maximum(own + variance, 1e-300))
    unknown = spread.copy()
    unknown[:, trained] = np.sqrt(np.maximum(own - told**2, 0.0))
    moved = np.repeat(mean[None], len(NODES), axis=0)
    moved[:, :, trained] += NODES[:, None] * told
    found = gain(moved.reshape(-1, mean.shape[1]), np.tile(unknown, (len(NODES), 1))).reshape(len(NODES), -1)
    rate = np.zeros(len(mean))
    for _ in range(IMPROVEMENTS):  # Dinkelbach's: each is the rate of the best rule by the rate before
        goes_on = found >= rate * after
        rate = (WEIGHTS @ (found * goes_on)) / (before + after * (WEIGHTS @ goes_on))
    return rate
