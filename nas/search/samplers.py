"""The Optuna samplers that a search can name, each made anew for every proposal so that proposals are reproducible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler

from nas.base.extensions import is_own, load
from nas.search.surrogate import Knowledge, SurrogateSampler
from nas.space.search_space import SearchSpace

LARGEST_GRID = 100_000


def _random(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, warn_independent_sampling=False)


def _nsga2(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def _nsga3(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(seed=seed, population_size=20)


def _gp(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _qmc(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    # one scrambled sequence for the whole run; how far it has come is kept in the study
    independent = optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.QMCSampler(
        scramble=True,
        seed=run_seed,
        independent_sampler=independent,
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


def _grid(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return _Grid({name: _grid_values(d) for name, d in (knowledge.space or {}).items()}, seed=run_seed)


def _surrogate(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:
    return SurrogateSampler(knowledge, seed)


class _Grid(optuna.samplers.GridSampler):
    def after_trial(self, *trial: object) -> None:
        """Nothing: Optuna's stops an optimize() loop after the last point, and raises where there is none."""


SAMPLERS: dict[str, Callable[[int, int, Knowledge], BaseSampler]] = {
    "random": _random,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
    "grid": _grid,
    "surrogate": _surrogate,
}


def make_sampler(
    name: str,
    run_seed: int,
    number: int,
    distributions: Mapping[str, BaseDistribution],
    knowledge: Knowledge | None = None,
) -> BaseSampler:
    """The sampler for proposal `number`: its randomness depends on the run's seed and the number alone.

    What a sampler learns it reads from the study's trials, so that a search proposes the same after a restart. A name
    `module:object` is that of somebody else's, which is called alike. Raises ValueError where that gives no sampler.
    """
    seed = int(np.random.SeedSequence((run_seed, number)).generate_state(1)[0])
    make = load(name) if is_own(name) else SAMPLERS[name]
    sampler = make(seed, run_seed, replace(knowledge or Knowledge(), space=distributions))
    if not isinstance(sampler, BaseSampler):
        raise ValueError(f"{name!r} must give an optuna.samplers.BaseSampler, not {type(sampler).__name__}")
    return sampler


def check_sampler(name: str, num_objectives: int, space: SearchSpace, needs_training: bool = True) -> None:
    """Raise ValueError where a sampler cannot serve this search, `needs_training` if an objective is no cost."""
    if is_own(name):
        try:
            make_sampler(name, 0, 0, distributions_of(space))
        except Exception as error:  # whatever somebody else's raises
            raise ValueError(f"search.sampler: {error}") from None
    if name == "surrogate" and not needs_training:
        raise ValueError(
            "search.sampler: surrogate learns what only training tells, and every objective of the file is a cost; add "
            "top1, of detectors box_ap, or take another sampler"
        )
    if name == "cmaes" and num_objectives > 1:
        raise ValueError(
            f"search.sampler: cmaes handles one objective, the file has {num_objectives}; "
            "allowed here are random, tpe, nsga2, nsga3, gp, qmc, grid and surrogate"
        )
    if name == "cmaes" and not any(_is_range(d) for d in distributions_of(space).values()):
        raise ValueError("search.sampler: cmaes needs a depth or width with evenly spaced numbers to choose from")
    if name == "grid" and space.num_points() > LARGEST_GRID:
        raise ValueError(f"search.sampler: grid handles {LARGEST_GRID:,} points, the space has {space.num_points():,}")


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """What a space offers, in Optuna's terms: evenly spaced numbers as integer ranges, the rest as categories."""
    return {name: distribution_of(values) for name, values in space.choices().items()}


def distribution_of(values: list) -> BaseDistribution:
    """Values to choose from, in Optuna's terms."""
    numbers = [value for value in values if isinstance(value, int)]
    steps = set(np.diff(sorted(numbers)).tolist())
    if len(numbers) == len(values) > 1 and len(steps) == 1:
        return IntDistribution(min(numbers), max(numbers), step=steps.pop())
    return CategoricalDistribution(values)


def _is_range(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, IntDistribution)


def _grid_values(distribution: BaseDistribution) -> list:
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, CategoricalDistribution)
    return list(distribution.choices)
