"""Trials as columns for the page: little-endian arrays behind a JSON head, or lists where there are few."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.base.extensions import is_own
from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.space import specs

NO_KIND = 255
TYPES = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8"), "u1": np.dtype("u1")}


def columns(run: RunReader, positions: NDArray[np.int64]) -> dict[str, tuple[str, NDArray[Any]]]:
    """Name -> (type, values) of the trials at these positions; values of metrics are NaN where unknown."""
    table = run.rows
    most, last = _kinds(run, positions)
    return {
        "number": ("f8", table.column("number")[positions]),
        "state": ("u1", table.column("state")[positions]),
        "most": ("u1", most),
        "last": ("u1", last),
    } | {name: ("f4", table.measured(name)[positions]) for name in METRICS}


def kinds_of(run: RunReader) -> list[str]:
    """The operators that the page has colours for: those of the package, then those of others as they came up."""
    shipped = [name for name in specs.OPERATORS if not is_own(name)]
    return list(dict.fromkeys([*shipped, *run.kinds.values()]))


def packed(head: dict[str, Any], found: dict[str, tuple[str, NDArray[Any]]]) -> bytes:
    """One block of bytes: the length of the head as four bytes, the head, then the columns in its order, 8-aligned."""
    layout = [[name, kind, len(values)] for name, (kind, values) in found.items()]
    text = json.dumps(head | {"columns": layout}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 4) % 8)
    parts = [len(text).to_bytes(4, "little"), text]
    for kind, values in found.values():
        data = np.ascontiguousarray(values, TYPES[kind]).tobytes()
        parts += [data, bytes(-len(data) % 8)]
    return b"".join(parts)


def listed(found: dict[str, tuple[str, NDArray[Any]]]) -> dict[str, list[Any]]:
    """The same as lists, None for NaN."""
    return {
        name: [None if value != value else value for value in np.asarray(values, TYPES[kind]).tolist()]
        for name, (kind, values) in found.items()
    }


def _kinds(run: RunReader, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Per trial the operator most of its blocks have (at a tie the first of `kinds_of`), and that of its last stage."""
    table, kinds = run.rows, kinds_of(run)
    stages = [table.operators[at] for at in positions.tolist()]
    lengths = np.fromiter(map(len, stages), np.int64, len(stages))
    most, last = (np.full(len(stages), NO_KIND, np.uint8) for _ in range(2))
    whole = lengths > 0
    if not whole.any():
        return most, last
    counts = np.zeros((len(table.stages), len(kinds)), np.int16)
    for index, labels in enumerate(table.stages):
        for label in labels:
            counts[index, kinds.index(run.kinds[label])] += 1
    flat = np.fromiter(chain.from_iterable(stages), np.int32, int(lengths.sum()))
    ends = np.cumsum(lengths[whole])
    most[whole] = np.add.reduceat(counts[flat], ends - lengths[whole], dtype=np.int16).argmax(axis=1)
    last[whole] = counts[flat[ends - 1]].argmax(axis=1)
    return most, last
