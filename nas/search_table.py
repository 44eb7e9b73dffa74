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

from nas import genotype
from nas.config import ExperimentConfig
from nas.errors import UserError
from nas.space import SearchSpace, Value

FORMAT = 1


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
    return {"format": FORMAT, "genotypes": genotype.FORMAT, "versions": versions, **parts}


def read_rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows of a table; a last line that was not written to its end is left out.

    Raises UserError for a file that is no table, or one of another version.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table of trained networks: {error}") from None
    try:
        header, *rows = [json.loads(line) for line in lines if line.endswith("\n")]
        found = (header["format"], header["genotypes"])
        assert all(isinstance(row, dict) and "net" in row for row in rows)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise UserError(f"{path}: not a table of trained networks (scripts/search_table.py makes one)") from None
    if found != (FORMAT, genotype.FORMAT):
        raise UserError(
            f"{path}: a table of format {found[0]} with genotypes of format {found[1]}; this version reads format "
            f"{FORMAT} with genotypes of format {genotype.FORMAT}; make it anew with scripts/search_table.py"
        )
    return header, rows
