"""The model of the surrogate sampler: Gaussian processes over flat choices, with effects of parameters and pairs.

Points are rows of positions in the choices, -1 where a parameter is not in effect. The covariance is
c + S + b * P: S sums a similarity per parameter, each with its own weight; P sums the products of all pairs of them
(additive Gaussian processes, https://arxiv.org/abs/1112.4394). Categorical parameters have a delta kernel, numeric ones
an RBF and a linear kernel. The weights maximise the posterior under log-normal priors. Everything is
products of explicit features, so that a fit takes milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

LENGTHS = (0.4, 1.0)
"""Of the neighbourhood of a number, in parts of its range: one member of the ensemble each."""
KNOTS = 12
PRIOR_PAIRS, PRIOR_NOISE, PRIOR_SPREAD = 0.5, 0.03, 0.7
FIT_POINTS, FIT_STEPS = 160, 10
JITTER, ROUNDING = 1e-6, 1e-12
ENOUGH_SURE = 6
"""Values without noise that the scale is made of; of fewer, all are."""


@dataclass(frozen=True)
class Features:
    """Columns whose products are similarities; `owner` says which similarity a column belongs to."""

    values: Array
    """[N, K]: similarities are values @ values.T within an owner."""
    squares: Array
    """[N, K2]: the same of the squared similarities."""
    owner: Rows
    owner_of_squares: Rows

    def products(self, other: Features, weights: Array) -> tuple[Array, Array]:
        """Sum of the weighted similarities of all pairs of rows, and of their squares: [N, N'] each."""
        first = (self.values * weights[self.owner]) @ other.values.T
        return first, (self.squares * weights[self.owner_of_squares] ** 2) @ other.squares.T

    def diagonal(self, weights: Array) -> tuple[Array, Array]:
        """The same of every row with itself: [N] each."""
        first = (self.values**2) @ weights[self.owner]
        return first, (self.squares**2) @ weights[self.owner_of_squares] ** 2


class Encoding:
    """Turns rows of positions into features; knows which parameters are numbers and how many choices each has."""

    def __init__(self, sizes: Sequence[int], numeric: Sequence[bool], length: float):
        self.tables: list[tuple[int, Array]] = []
        self.tables_of_squares: list[tuple[int, Array]] = []
        self.owners: list[int] = []
        self.owners_of_squares: list[int] = []
        self.num_owners = 0
        for column, (size, is_number) in enumerate(zip(sizes, numeric, strict=True)):
            if size < 2:
                continue
            for table, table_of_squares in _tables(size, is_number, length):
                self.tables.append((column, table))
                self.tables_of_squares.append((column, table_of_squares))
                self.owners += [self.num_owners] * table.shape[1]
                self.owners_of_squares += [self.num_owners] * table_of_squares.shape[1]
                self.num_owners += 1
        self.owner, self.owner_of_squares = np.array(self.owners, int), np.array(self.owners_of_squares, int)

    def features(self, rows: Rows) -> Features:
        values = [table[rows[:, column]] for column, table in self.tables]
        squares = [table[rows[:, column]] for column, table in self.tables_of_squares]
        return Features(np.concatenate(values, 1), np.concatenate(squares, 1), self.owner, self.owner_of_squares)


class Ensemble:
    """A prediction for one quantity, fitted to values [N] at rows [N, D]; members differ in how far numbers reach.

    Low values are told apart finer than high ones, see `_Scale`: of an error or a latency a small part of it counts.
    `noise` [N], in squared units of the values, is what single values have beyond the common noise. Pending rows
    sharpen the prediction around them and do not move it. With `plain_log` all parts of a value count alike, as of a
    quotient.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        numeric: Sequence[bool],
        rows: Rows,
        values: Array,
        noise: Array | None = None,
        pending: Rows | None = None,
        seed: int = 0,
        plain_log: bool = False,
    ):
        noise = np.zeros(len(values)) if noise is None else noise
        sure = values[noise == 0]
        scale = _Scale(sure if len(sure) >= ENOUGH_SURE else values, plain_log)
        values = np.maximum(values, scale.lowest)
        self._members = [
            _Member(Encoding(sizes, numeric, length), scale, rows, values, noise, pending, seed) for length in LENGTHS
        ]
        evidence = np.array([member.evidence for member in self._members])
        weights = np.exp(evidence - evidence.max())
        self._weights = weights / weights.sum()

    def predict(self, rows: Rows, noisy: bool = False) -> tuple[Array, Array]:
        """Middle and standard deviation [N] of the quantity, without its noise or of a new value with it."""
        found = [member.predict(rows, noisy) for member in self._members]
        mean = self._mixed([middle for middle, _ in found])
        square = self._mixed([middle**2 + spread**2 for middle, spread in found])
        return mean, np.sqrt(np.maximum(square - mean**2, 1e-12))

    def middle(self, rows: Rows) -> Array:
        """The middle [N] alone, which takes a fraction of the time."""
        return self._mixed([member.middle(rows) for member in self._members])

    def within(self, low: Array | float, high: Array | float, rows: Rows) -> Array:
        """Probability [N] that the quantity is from `low` to `high`, each a number or [N]."""
        return self._mixed([member.within(low, high, rows) for member in self._members])

    def contrasts(self, rows: Rows, weights: Array) -> tuple[Array, Array]:
        """Middle and standard deviation [C] of sums of the quantity at rows [N, D] with weights [C, N]: what is
        uncertain of all rows alike does not count for a difference."""
        found = [member.contrasts(rows, weights) for member in self._members]
        mean = self._mixed([middle for middle, _ in found])
        square = self._mixed([middle**2 + variance for middle, variance in found])
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def _mixed(self, parts: list[Array]) -> Array:
        return self._weights @ np.array(parts)


class _Scale:
    """The logarithm of the distance to an origin, shifted and scaled to mean 0 and variance 1.

    The origin is as far below the lowest value as the median is above it; it is 0 for a `plain` logarithm, and for
    values that span a factor of ten.
    """

    def __init__(self, values: Array, plain: bool = False):
        lowest, middle = float(values.min()), float(np.median(values))
        reach = max(middle - lowest, 1e-3 * float(np.ptp(values)), ROUNDING * abs(lowest))
        self._origin = lowest - (reach or 1.0)
        if plain or 0 < 10 * lowest < values.max():
            self._origin = 0.0
        self.lowest = (self._origin + lowest) / 2
        """A guess below it is taken for that: nearer to the origin it would stretch the scale."""
        logs = np.log(values - self._origin)
        self._centre, self._spread = float(logs.mean()), float(logs.std()) or 1.0

    def inside(self, values: Array) -> Array:
        return (np.log(np.maximum(values - self._origin, 1e-300)) - self._centre) / self._spread

    def outside(self, values: Array) -> Array:
        return np.exp(values * self._spread + self._centre) + self._origin

    def slope(self, values: Array) -> Array:
        """How much the value inside changes with that outside."""
        return 1 / (self._spread * (values - self._origin))


class _Member:
    """One process, of values on the scale."""

    def __init__(
        self,
        encoding: Encoding,
        scale: _Scale,
        rows: Rows,
        values: Array,
        noise: Array,
        pending: Rows | None,
        seed: int,
    ) -> None:
        self.encoding, self.scale = encoding, scale
        chosen = np.arange(len(rows))
        if len(rows) > FIT_POINTS:  # the best half of them, the others at random
            order = np.argsort(values, kind="stable")
            rest = np.random.default_rng(seed).permutation(order[FIT_POINTS // 2 :])
            chosen = np.concatenate([order[: FIT_POINTS // 2], rest[: FIT_POINTS - FIT_POINTS // 2]])
        # a value of great noise is taken to be near the others
        extra = noise * scale.slope(np.minimum(values, np.median(values))) ** 2
        values = scale.inside(values)
        fitted, self.evidence = _fit(
            encoding.features(rows[chosen]), encoding.num_owners, values[chosen], extra[chosen]
        )
        self.weights: Array = fitted[:-3]
        self.constant, self.pairs, self.noise = fitted[-3:].tolist()
        self.inputs = encoding.features(rows)
        factor = _factor(self._covariance() + np.diag(self.noise + JITTER + extra))
        if pending is not None and len(pending):
            expected = self._with(encoding.features(pending)) @ cho_solve(factor, values)
            values, extra = np.append(values, expected), np.append(extra, np.zeros(len(pending)))
            self.inputs = encoding.features(np.concatenate([rows, pending]))
            factor = _factor(self._covariance() + np.diag(self.noise + JITTER + extra))
        self._lower = factor[0]
        self._solved = cho_solve(factor, values)

    def predict(self, rows: Rows, noisy: bool) -> tuple[Array, Array]:
        """Median and spread [N]."""
        mean, variance = self._inside(rows)
        middle = self.scale.outside(mean)
        return middle, np.sqrt(variance + noisy * self.noise) / self.scale.slope(middle)

    def middle(self, rows: Rows) -> Array:
        return self.scale.outside(self._with(self.encoding.features(rows)) @ self._solved)

    def within(self, low: Array | float, high: Array | float, rows: Rows) -> Array:
        mean, variance = self._inside(rows)
        below, above = (
            ndtr((self.scale.inside(np.asarray(bound)) - mean) / np.sqrt(variance)) for bound in (low, high)
        )
        return above - below

    def contrasts(self, rows: Rows, weights: Array) -> tuple[Array, Array]:
        """Sums of medians and their variances [C], the scale taken as straight about each median."""
        new = self.encoding.features(rows)
        covariance = self._with(new)
        middle = self.scale.outside(covariance @ self._solved)
        inside = weights / self.scale.slope(middle)
        whitened = solve_triangular(self._lower, covariance.T @ inside.T, lower=True, check_finite=False)
        prior = _combine(*new.products(new, self.weights), self.constant, self.pairs)
        return weights @ middle, ((inside @ prior) * inside).sum(1) - (whitened**2).sum(0)

    def _inside(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and variance [N] on the scale."""
        new = self.encoding.features(rows)
        covariance = self._with(new)
        whitened = solve_triangular(self._lower, covariance.T, lower=True, check_finite=False)
        prior = _combine(*new.diagonal(self.weights), self.constant, self.pairs)
        return covariance @ self._solved, np.maximum(prior - (whitened**2).sum(0), 1e-10)

    def _with(self, new: Features) -> Array:
        return _combine(*new.products(self.inputs, self.weights), self.constant, self.pairs)

    def _covariance(self) -> Array:
        return self._with(self.inputs)


def _combine(first: Array, squares: Array, constant: float, pairs: float) -> Array:
    return constant + first + pairs * (first**2 - squares) / 2


def _fit(features: Features, num_owners: int, values: Array, extra: Array) -> tuple[Array, float]:
    """The likeliest weights, constant, strength of pairs and noise, and the logarithm of how likely they are."""
    count = len(values)
    prior = np.log([*[1 / num_owners] * num_owners, 1.0, PRIOR_PAIRS, PRIOR_NOISE])
    spread = np.array([*[PRIOR_SPREAD] * num_owners, 1.0, 1.5, 1.5])
    identity = np.eye(count)

    def unlikeliness(logs: Array) -> tuple[float, Array]:
        weights, (constant, pairs, noise) = np.exp(logs[:-3]), np.exp(logs[-3:])
        first, squares = features.products(features, weights)
        covariance = _combine(first, squares, constant, pairs) + np.diag(noise + JITTER + extra)
        factor = _factor(covariance)
        inverse = cho_solve(factor, identity, check_finite=False)
        solved = inverse @ values
        slope = (inverse - np.outer(solved, solved)) / 2
        by_first = (features.values * ((slope * (1 + pairs * first)) @ features.values)).sum(0)
        by_square = (features.squares * (slope @ features.squares)).sum(0)
        by_weight = np.bincount(features.owner, by_first, num_owners)
        by_weight -= pairs * weights * np.bincount(features.owner_of_squares, by_square, num_owners)
        by_pairs = float((slope * (first**2 - squares)).sum()) / 2
        gradient = np.array([*weights * by_weight, constant * slope.sum(), pairs * by_pairs, noise * np.trace(slope)])
        distance = (logs - prior) / spread
        loss = values @ solved / 2 + np.log(np.diag(factor[0])).sum() + (distance**2).sum() / 2
        return float(loss), gradient + distance / spread

    bounds = list(zip(prior - 6 * spread, prior + 6 * spread, strict=True))  # a step too far would overflow
    found = minimize(unlikeliness, prior, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": FIT_STEPS})
    return np.exp(found.x), -float(found.fun)


def _factor(covariance: Array) -> tuple[Array, bool]:
    """The Cholesky factor; where rounding leaves none, as of rows that repeat, of a matrix with a larger diagonal."""
    size = float(np.diag(covariance).mean())
    for jitter in (0.0, 1e-8, 1e-6, 1e-4, 1e-2):
        try:
            return cho_factor(covariance + jitter * size * np.eye(len(covariance)), lower=True, check_finite=False)
        except LinAlgError:
            continue
    raise LinAlgError(f"a covariance of {len(covariance)} rows has no Cholesky factor")


@functools.cache
def _tables(size: int, is_number: bool, length: float) -> list[tuple[Array, Array]]:
    """Features of each position, the last row those of "not in effect", and of their squares, for each similarity."""
    positions = np.linspace(-1, 1, size)
    tables = [_near(positions, 2 * length), np.append(positions, 0.0)[:, None]] if is_number else [np.eye(size + 1)]
    return [(table, _features((table @ table.T) ** 2)) for table in tables]


def _features(similarities: Array) -> Array:
    """Columns whose products are the similarities. Never more than these, so that all pairs' products less the squares
    stay a covariance."""
    sizes, directions = np.linalg.eigh(similarities)
    kept = sizes > 1e-12 * sizes[-1]
    return directions[:, kept] * np.sqrt(sizes[kept])


def _near(positions: Array, length: float) -> Array:
    """Features [size + 1, K] whose products are exp(-distance^2 / 2 length^2); the last row is of "not in effect"."""
    knots = positions if len(positions) <= KNOTS else np.linspace(-1, 1, KNOTS)
    between = np.exp(-((knots[:, None] - knots) ** 2) / (2 * length**2)) + JITTER * np.eye(len(knots))
    across = np.exp(-((positions[:, None] - knots) ** 2) / (2 * length**2))
    features = solve_triangular(np.linalg.cholesky(between), across.T, lower=True).T
    table = np.zeros((len(positions) + 1, len(knots) + 1))
    table[:-1, :-1], table[-1, -1] = features, 1.0
    return table
