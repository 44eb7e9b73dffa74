"""What the noise of accuracies says of a front: intervals, and probabilities of being on it and of being better.

The accuracy that a network would have on all images of its kind, on average over seeds, is taken as normally
distributed about the mean of its trainings. Its variance has two parts: that of the images, p (1 - p) / n of the n that
it was measured on (binomial; more seeds do not help, as all are measured on the same images), and that of the seed,
divided by the number of trainings. Networks share one variance of the seed, pooled over all that were trained more than
once; as long as these are few, it is also taken as that of the images, which is its usual size, with the weight of two
further trainings (Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks,
https://arxiv.org/abs/2103.03098).

Errors of two networks are taken as independent, though both meet the same images: a difference is a little surer than
said here. Costs are taken as measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.config.evaluators import TRAINED
from nas.config.sections import ObjectiveConfig
from nas.runs.pareto import pareto_mask

NORMAL_95 = 1.96
PRIOR_DEGREES = 2
DRAWS, PART = 2000, 250
FAR = 3.0
"""Standard errors beyond which an accuracy is not looked for."""
MOST_DRAWN = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """What is known of the errors of a run's accuracies, fractions."""

    num_images: int
    """That accuracies were measured on; 0 where the records do not say."""
    seed_sd: float
    """Standard deviation of a training from seed to seed, as it is taken."""
    measured_sd: float | None
    """The same from the networks that were trained more than once alone."""
    degrees: int
    """Trainings beyond the first of each network, from which it comes."""


@dataclass(frozen=True)
class Judged:
    """N complete trials, as noise lets them be seen; arrays are [N], accuracies fractions."""

    noise: Noise
    first: Array
    """Accuracy of the trial itself."""
    mean: Array
    """Accuracy, over all trainings of the network."""
    error: Array
    """Standard error of `mean`, as that of the accuracy on all images of the kind."""
    count: NDArray[np.int64]
    """Trainings of the network."""
    on_front: Array
    """Probability that no other network is more accurate and costs no more."""
    first_front: NDArray[np.bool_]
    """Whether the first training is on the front."""

    def interval(self, at: int) -> tuple[float, float]:
        """About 95 %, within 0 and 1."""
        margin = NORMAL_95 * float(self.error[at])
        return max(float(self.mean[at]) - margin, 0.0), min(float(self.mean[at]) + margin, 1.0)

    def beats(self, at: int, other: int) -> float:
        """Probability that one network is more accurate than another."""
        apart = math.hypot(float(self.error[at]), float(self.error[other]))
        return (1 + math.erf(float(self.mean[at] - self.mean[other]) / apart / math.sqrt(2))) / 2


def judge(
    keys: Sequence[str],
    points: Array,
    objectives: Sequence[ObjectiveConfig],
    num_images: int,
    further: Mapping[str, Sequence[float]] | None = None,
) -> Judged | None:
    """Judge complete trials by their keys [N] and points [N, M], as `pareto.as_points` has them.

    `further` has the accuracies of replicates by key. None where no accuracy is among the objectives, and where nothing
    is known of its noise: neither the number of images nor a second training.
    """
    column = next((at for at, objective in enumerate(objectives) if objective.name in TRAINED), None)
    if column is None or not len(keys):
        return None
    first, place = -points[:, column], _places(keys)
    added = [(place[key], accuracy) for key, found in (further or {}).items() if key in place for accuracy in found]
    of = np.array([place[key] for key in keys] + [at for at, _ in added])  # the first trial with the key
    accuracies = np.concatenate([first, np.array([accuracy for _, accuracy in added])])
    count = np.maximum(np.bincount(of, minlength=len(keys)), 1)
    mean = np.bincount(of, accuracies, minlength=len(keys)) / count
    squares, degrees = float(((accuracies - mean[of]) ** 2).sum()), len(of) - len(place)
    measured = squares / degrees if degrees else 0.0
    mean, count, of = mean[of[: len(keys)]], count[of[: len(keys)]], of[: len(keys)]
    of_images = _binomial(mean, num_images) if num_images else np.zeros(len(keys))
    if not num_images and not degrees:
        return None
    weight = PRIOR_DEGREES if num_images else 0
    of_seed = (weight * float(of_images.mean()) + degrees * measured) / (weight + degrees)
    error = np.sqrt(np.maximum(of_images + of_seed / count, 1e-12))
    costs = np.delete(points, column, axis=1)
    return Judged(
        Noise(num_images, math.sqrt(of_seed), math.sqrt(measured) if degrees else None, degrees),
        first,
        mean,
        error,
        count,
        _on_front(mean, error, costs, of),
        pareto_mask(points),
    )


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Key -> place of the first trial with it."""
    found: dict[str, int] = {}
    for at, key in enumerate(keys):
        found.setdefault(key, at)
    return found


def _binomial(mean: Array, num_images: int) -> Array:
    """Variance of a share of so many images, with half an image added to either side (Jeffreys), so that all right is
    not certain."""
    share = (mean * num_images + 0.5) / (num_images + 1)
    return share * (1 - share) / (num_images + 2)


def _on_front(mean: Array, error: Array, costs: Array, of: NDArray[np.int64]) -> Array:
    """The share of draws in which no other network is more accurate at costs [N, M - 1] that are no higher.

    Trials of one network are one: `of` [N] has the place of the first of each. Networks that are dominated by more than
    the errors allow are not drawn at all, nor are others beyond the MOST_DRAWN that come nearest to the front.
    """
    found = np.zeros(len(mean))
    slack = _slack(mean, error, costs)
    hopeful = np.flatnonzero(slack >= 0)
    hopeful = np.sort(hopeful[np.argsort(-slack[hopeful], kind="stable")[:MOST_DRAWN]])
    drawn = np.unique(of[hopeful])
    order = drawn[np.lexsort((drawn, *costs[drawn].T[::-1]))] if costs.shape[1] else drawn
    rivals = _rivals(costs[order])
    random = np.random.default_rng(0)
    for _ in range(DRAWS // PART):
        draws = mean[order] + error[order] * random.standard_normal((PART, len(order)))
        found[order] += _undominated(draws, rivals)
    found = found[of]
    return found / DRAWS


def _slack(mean: Array, error: Array, costs: Array) -> Array:
    """By how much each network with an accuracy as high as may be is better than all that cost no more and have one as
    low as may be; infinite for the cheapest."""
    low, high = mean - FAR * error, mean + FAR * error
    best = np.full(len(mean), -np.inf)
    for at in np.flatnonzero(pareto_mask(np.column_stack([costs, -low]))).tolist():
        dearer = np.flatnonzero((costs >= costs[at]).all(axis=1))
        dearer = dearer[dearer != at]
        best[dearer] = np.maximum(best[dearer], low[at])
    return high - best


def _rivals(costs: Array) -> list[NDArray[np.int64]] | None:
    """For each of the rows, in the order of their first cost, those that cost no more; None where that is all before
    it, and none of equal cost behind."""
    if costs.shape[1] == 1 and (np.diff(costs[:, 0]) > 0).all():
        return None
    return [
        np.array([other for other in np.flatnonzero((costs <= row).all(axis=1)).tolist() if other != at], int)
        for at, row in enumerate(costs)
    ]


def _undominated(draws: Array, rivals: list[NDArray[np.int64]] | None) -> Array:
    """In how many of the draws [S, N] each network is at least as accurate as all its rivals."""
    if rivals is None:
        return (draws >= np.maximum.accumulate(draws, axis=1)).sum(axis=0).astype(float)
    alone = np.full(len(draws), -np.inf)
    best = [draws[:, others].max(axis=1) if len(others) else alone for others in rivals]
    return (draws >= np.array(best).T).sum(axis=0).astype(float) if best else np.zeros(0)
