"""A table of trained networks: every network of a small space, with curves of several seeds and its known costs.

Lines of JSON. The first says format, versions, space and proxy; a training is {net, seed, top1, val_loss, train_loss,
seconds} with one figure per epoch; {net, num_params, num_macs} are counted; {net, latency_ms, spread_ms} is one round
of measuring. `net` is a position in `networks`.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.base.errors import UserError
from nas.config.sections import ExperimentConfig
from nas.runs.pareto import hypervolume, reference_point
from nas.space import genotype
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace, Value
from nas.space.sections import SpaceConfig

TABLE_FORMAT = 1


def networks(space: SearchSpace) -> list[dict[str, Value]]:
    """The parameters of every distinct network of a space, the first of equal ones, in the order of its choices."""
    choices = space.choices()
    found: dict[str, dict[str, Value]] = {}
    for values in product(*choices.values()):
        params = dict(zip(choices, values, strict=True))
        found.setdefault(space.decode(params).key, params)
    return list(found.values())


def header_of(config: ExperimentConfig, versions: dict[str, Any]) -> dict[str, Any]:
    """The first line of the table of an experiment."""
    parts = config.model_dump(mode="json", include={"space", "objectives", "proxy"})
    return {"format": TABLE_FORMAT, "genotypes": genotype.FORMAT, "versions": versions, **parts}


def read_rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows of a table; a last line that was not written to its end is left out.

    Raises UserError for a file that is no table, or one of another version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table of trained networks: {error}") from None
    try:
        header, *rows = [json.loads(line) for line in lines if line.endswith("\n")]
        found = (header["format"], header["genotypes"])
        assert all(isinstance(row, dict) and "net" in row for row in rows)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path}: not a table of trained networks (scripts/search_table.py makes one)") from None
    if found != (TABLE_FORMAT, genotype.FORMAT):
        raise UserError(
            f"{path}: a table of format {found[0]} with genotypes of format {found[1]}; this version reads format "
            f"{TABLE_FORMAT} with genotypes of format {genotype.FORMAT}; make it anew with scripts/search_table.py"
        )
    return header, rows


class TableSpace:
    """The table as a space to search in: a training costs nothing, and its curve is one that was really trained.

    Objectives are the error and `cost`: latency_ms (median of the rounds), num_macs or num_params. The truth of a
    network is the mean over the seeds that all networks have. Raises UserError for a table that is not complete.
    """

    def __init__(self, path: Path, cost: str = "latency_ms"):
        header, rows = read_rows(path)
        try:
            self._space = SearchSpace(SpaceConfig.model_validate_json(json.dumps(header["space"])))
            self.epochs, self.side = int(header["proxy"]["epochs"]), int(header["proxy"]["resolution"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: the space of this table is of another version; make it anew with scripts/search_table.py"
            ) from None
        self.name = f"table-{cost}"
        self._nets = {_identity(self._space.active(params)): net for net, params in enumerate(networks(self._space))}
        curves: list[dict[int, list[float]]] = [{} for _ in self._nets]
        costs: list[list[float]] = [[] for _ in self._nets]
        for row in rows:
            if "seed" in row:
                curves[row["net"]][row["seed"]] = [1 - top1 for top1 in row["top1"]]
            elif cost in row:
                costs[row["net"]].append(row[cost])
        seeds = sorted(set.intersection(*(set(found) for found in curves)))
        self.num_seeds = len(seeds)
        if not self.num_seeds or not all(costs):
            raise UserError(
                f"{path}: not complete: {sum(map(bool, curves))} of {len(curves)} networks are trained, "
                f"{sum(map(bool, costs))} have {cost}; scripts/search_table.py goes on with it"
            )
        self.curves = np.array([[found[seed] for seed in seeds] for found in curves])
        self.points = points = np.stack([self.curves[:, :, -1].mean(axis=1), [np.median(found) for found in costs]], 1)
        self.reference = reference_point(points)
        self.best_hypervolume = hypervolume(points, self.reference)

    def choices(self) -> dict[str, list[Value]]:
        return self._space.choices()

    def genotypes(self) -> list[Genotype]:
        """Of every network, in the order of `points`."""
        return [self._space.decode(params) for params in networks(self._space)]

    def active(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters in effect."""
        return self._space.active(params)

    def cost(self, params: dict[str, Any]) -> float:
        """Known before any training."""
        return float(self.points[self._net(params), 1])

    def curve(self, params: dict[str, Any], seed: int) -> NDArray[np.float64]:
        """The error after each epoch of one of the trainings of a network."""
        net = self._net(params)
        return self.curves[net, np.random.default_rng((net, seed)).integers(self.num_seeds)]

    def true_error(self, params: dict[str, Any]) -> float:
        """The mean of the final error over seeds."""
        return float(self.points[self._net(params), 0])

    def _net(self, params: dict[str, Any]) -> int:
        return self._nets[_identity(self._space.active(params))]


def _identity(active: dict[str, Any]) -> str:
    return repr(sorted(active.items()))
