"""A synthetic space for benchmarks of the search: conditional, noisy, curves that cross; microseconds per query."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runs.pareto import hypervolume, pareto_mask

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Params = dict[str, Any]

OPERATORS = ("conv", "involution", "odconv", "scconv", "gnconv")
HAS_KERNEL = np.array([True, True, True, False, False])
CHOICES = {
    "operator": OPERATORS,
    "depth": (1, 2, 3, 4, 5),
    "width": (16, 32, 64, 128),
    "kernel": (3, 5, 7),
    "option": "abc",
}
STAGES, EPOCHS = 4, 27
_CHOICES = {f"stages.{i}.{name}": list(values) for i in range(STAGES) for name, values in CHOICES.items()}
BEST_ERROR, SPAN = 0.04, 0.56
START_ERROR, WORST_ERROR, WORST_RATIO = 0.9, 0.45, 40.0
SEED_NOISE, EPOCH_NOISE = 0.01, 0.005
SAMPLES, GENERATIONS = 60_000, 60


class SyntheticSpace:
    """Four stages of operator, depth, width, kernel size and an option; an operator has one of the last two.

    Operators, depth, width and the rest are worth something in every stage, operators of neighbouring stages in pairs,
    depth by operator; the error saturates in the sum. Cost is log10 of a latency that adds up over blocks. Networks
    converge at the pace of their operators, so curves cross; seeds differ by 1 % of error, epochs by half of that.
    All of it is drawn from `seed`. The methods of many points take positions in the choices, [N, 20].
    """

    epochs = EPOCHS

    def __init__(self, seed: int):
        self.name = f"synthetic {seed}"
        draw = np.random.default_rng(seed)
        stages, kinds = STAGES, len(OPERATORS)
        self._operator = draw.normal(0, 0.45, (stages, kinds))
        self._depth = draw.uniform(0.2, 0.8, (stages, kinds))
        self._width = draw.uniform(0.2, 0.6, stages)
        self._extra = draw.normal(0, 0.25, (stages, kinds, 3))
        self._pair = draw.normal(0, 0.3, (stages - 1, kinds, kinds))
        self._block_cost = draw.uniform(0.6, 2.5, kinds) * draw.uniform(0.8, 1.25, (stages, kinds))
        self._extra_cost = np.sort(draw.uniform(0.8, 1.8, (kinds, 3)), axis=1)
        self._width_cost = draw.uniform(1.2, 1.9)
        self._pace = draw.permutation([1.5, 2.5, 3.5, 5.0, 7.0])
        self._sizes = np.array([len(values) for values in self.choices().values()])
        scores = self._score(self.random(4096, draw))
        self._middle, self._spread = float(scores.mean()), float(scores.std())
        cheapest = self._sizes * 0 + np.tile([0, 0, 0, 0, 0], stages)
        every = [self.costs(cheapest[None] + np.tile([kind, 0, 0, 0, 0], stages)) for kind in range(kinds)]
        self.reference = np.array([WORST_ERROR, float(np.min(every)) + np.log10(WORST_RATIO)])

    def choices(self) -> dict[str, list]:
        return _CHOICES

    def active(self, params: Params) -> Params:
        """The parameters in effect: equal ones are equal networks."""
        unused = {
            f"stages.{i}.{'option' if HAS_KERNEL[OPERATORS.index(params[f'stages.{i}.operator'])] else 'kernel'}"
            for i in range(STAGES)
        }
        return {name: value for name, value in params.items() if name not in unused}

    def cost(self, params: Params) -> float:
        """log10 of the latency, known before any training."""
        return float(self.costs(self._row(params))[0])

    def curve(self, params: Params, seed: int) -> Array:
        """The error after each epoch [27] of a training with that seed."""
        row = self._row(params)
        pace = self._pace[row[0].reshape(STAGES, -1)[:, 0]].mean()
        away = np.exp(-np.arange(1, EPOCHS + 1) / pace)
        final = self.true_error(params)
        draw = np.random.default_rng((zlib.crc32(repr(sorted(self.active(params).items())).encode()), seed))
        noise = draw.normal(0, SEED_NOISE) + draw.normal(0, EPOCH_NOISE, EPOCHS)
        return np.clip(final + (START_ERROR - final) * (away - away[-1]) + noise, 0.0, 1.0)

    def true_error(self, params: Params) -> float:
        """The mean of the final error over seeds."""
        return float(self.errors(self._row(params))[0])

    def errors(self, rows: Rows) -> Array:
        """True errors [N]."""
        sigmoid = 1 / (1 + np.exp(1.3 * (self._score(rows) - self._middle) / self._spread + 0.5))
        return BEST_ERROR + SPAN * sigmoid

    def costs(self, rows: Rows) -> Array:
        """log10 of the latencies [N]."""
        kinds, depths, widths, extras = _parts(rows)
        stage = np.arange(STAGES)
        blocks = self._block_cost[stage, kinds] * self._extra_cost[kinds, extras] * self._width_cost**widths
        return np.log10(((depths + 1) * blocks).sum(axis=1))

    def random(self, count: int, draw: np.random.Generator) -> Rows:
        """Random positions [count, 20]."""
        return draw.integers(0, self._sizes, size=(count, len(self._sizes)))

    @cached_property
    def best_hypervolume(self) -> float:
        """Of the front that a long evolution on the true values finds."""
        draw = np.random.default_rng(0)
        rows = self.random(SAMPLES, draw)
        for _ in range(GENERATIONS):
            points = np.stack([self.errors(rows), self.costs(rows)], axis=1)
            rows = rows[pareto_mask(points)]
            parents = rows[draw.integers(len(rows), size=(2, 2000))]
            children = np.where(draw.random(parents[0].shape) < 0.5, *parents)
            mutated = draw.random(children.shape) < 1 / children.shape[1]
            rows = np.concatenate([rows, np.where(mutated, self.random(len(children), draw), children)])
        return hypervolume(np.stack([self.errors(rows), self.costs(rows)], axis=1), self.reference)

    def _score(self, rows: Rows) -> Array:
        kinds, depths, widths, extras = _parts(rows)
        stage = np.arange(STAGES)
        worth = self._operator[stage, kinds] + self._depth[stage, kinds] * np.log2(depths + 1)
        worth += self._width * widths + self._extra[stage, kinds, extras]
        return worth.sum(axis=1) + self._pair[stage[:-1], kinds[:, :-1], kinds[:, 1:]].sum(axis=1)

    def _row(self, params: Params) -> Rows:
        return np.array([[values.index(params[name]) for name, values in self.choices().items()]])


def _parts(rows: Rows) -> tuple[Rows, Rows, Rows, Rows]:
    """Operators, depths, widths and what the operators have besides, each as positions [N, 4]."""
    kinds, depths, widths, kernels, options = (rows[:, column :: len(CHOICES)] for column in range(len(CHOICES)))
    return kinds, depths, widths, np.where(HAS_KERNEL[kinds], kernels, options)
