"""Trials as columns for the page: little-endian arrays behind a JSON head, or lists where there are few."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.base.extensions import is_own
from nas.runs.metrics import METRICS, Metric
from nas.runs.reader import RunReader
from nas.runs.record import MEASURED
from nas.runs.trial_table import ENDED, STATES, places
from nas.space import specs

NO_KIND = 255
NO_STAGE = 2**32 - 1
SHOWN_STATES = (*STATES, "unknown", MEASURED)
"""Those of trials, apart from each other what was rejected and what was measured without being trained."""
TYPES = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8"), "u1": np.dtype("u1"), "u4": np.dtype("<u4")}


FURTHER = {
    "depth": Metric("depth", "blocks", 1, 0),
    "width": Metric("widest stage", "channels", 1, 0),
    "epochs": Metric("epochs", "", 1, 0),
    "seconds": Metric("time taken", "s", 1, 1),
    "train_loss": Metric("training loss", "", 1, 4),
    "val_loss": Metric("validation loss", "", 1, 4),
}
"""Figures beside METRICS, which the page asks for where it shows them."""


def columns(run: RunReader, positions: NDArray[np.int64]) -> dict[str, tuple[str, NDArray[Any]]]:
    """Name -> (type, values) of the trials at these positions; values of metrics are NaN where unknown."""
    table = run.rows
    most, last, label = _operators(run, positions)
    return {
        "number": ("f8", table.column("number")[positions]),
        "state": ("u1", _states(run, positions)),
        "most": ("u1", most),
        "last": ("u1", last),
        "label": ("u1", label),
    } | {name: ("f4", table.measured(name)[positions]) for name in METRICS}


def state_of_trial(state: str, error: str | None) -> str:
    """The state of a trial, one of SHOWN_STATES."""
    return MEASURED if state == "rejected" and (error or "").startswith(f"{MEASURED}: ") else state


def _states(run: RunReader, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """As places in SHOWN_STATES."""
    states = run.rows.column("state")[positions].copy()
    for at in np.flatnonzero(states == STATES.index("rejected")).tolist():
        states[at] = SHOWN_STATES.index(state_of_trial("rejected", run.rows.errors.get(int(positions[at]))))
    return states


def kinds_of(run: RunReader) -> list[str]:
    """The operators that the page has colours for: those of the package, then those of others as they came up."""
    shipped = [name for name in specs.OPERATORS if not is_own(name)]
    return list(dict.fromkeys([*shipped, *run.kinds.values()]))


def architectures(run: RunReader) -> bytes:
    """What the table of all trials and further axes need besides: their keys and the distinct stages (labels block by
    block) and shapes (kind and width of each stage) in the head; FURTHER (NaN where unknown), when each trial finished,
    its shape and its stages as columns."""
    table = run.rows
    shapes: dict[Any, int] = {}
    shape = [shapes.setdefault(one, len(shapes)) for one in table.shapes]
    lengths = np.fromiter(map(len, table.operators), np.int64, len(table))
    stages = np.full((len(table), max(lengths.tolist(), default=0)), NO_STAGE, np.uint32)
    stages[np.arange(stages.shape[1]) < lengths[:, None]] = list(chain.from_iterable(table.operators))
    deep = np.fromiter(map(len, table.shapes), np.int64, len(table))
    names = places(int(deep.max(initial=0)), stages.shape[1])
    head = {"keys": table.keys, "stages": table.stages, "shapes": list(shapes), "places": names}
    of_stage = np.array([*map(len, table.stages), 0])
    widest = np.array([max((width for _, width in one), default=np.nan) for one in shapes], np.float64)
    num_blocks = of_stage[np.minimum(stages, len(table.stages))]
    num_blocks[np.arange(stages.shape[1]) >= deep[:, None]] = 0  # neither neck nor head
    further = {"depth": num_blocks.sum(axis=1), "width": widest[shape]}
    further |= {"seconds": table.column("seconds")}
    further |= dict(zip(ENDED, table.column("ended").T, strict=True))
    return packed(
        head,
        {
            "number": ("f8", table.column("number")),
            "finished": ("f8", table.column("finished")),
            "shape": ("u4", np.array(shape, np.uint32)),
        }
        | {name: ("f4", values) for name, values in further.items()}
        | {f"stage{i}": ("u4", column) for i, column in enumerate(stages.T)},
    )


def known_figures(run: RunReader) -> list[dict[str, Any]]:
    """Those of FURTHER that a complete trial has, with what their values mean."""
    ended = run.rows.column("ended")[run.rows.in_state("complete")]
    known = {name: not np.isnan(values).all() for name, values in zip(ENDED, ended.T, strict=True)}
    return [{"name": name} | asdict(metric) for name, metric in FURTHER.items() if known.get(name, len(ended) > 0)]


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


def _operators(run: RunReader, positions: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Per trial the operator most of its blocks have (at a tie the first of `kinds_of`), that of its last stage, and
    the label most of its blocks have, as a place in `RunReader.kinds`."""
    table, kinds, labels = run.rows, kinds_of(run), list(run.kinds)
    stages = [table.operators[at] for at in positions.tolist()]
    lengths = np.fromiter(map(len, stages), np.int64, len(stages))
    found = [np.full(len(stages), NO_KIND, np.uint8) for _ in range(3)]
    whole = lengths > 0
    if not whole.any():
        return found
    of_kind = np.zeros((len(table.stages), len(kinds)), np.int16)
    of_label = np.zeros((len(table.stages), len(labels)), np.int16)
    place = {label: (kinds.index(run.kinds[label]), at) for at, label in enumerate(labels)}
    for index, stage in enumerate(table.stages):
        for label in stage:
            kind, at = place[label]
            of_kind[index, kind] += 1
            of_label[index, at] += 1
    flat = np.fromiter(chain.from_iterable(stages), np.int32, int(lengths.sum()))
    ends = np.cumsum(lengths[whole])
    found[0][whole], found[2][whole] = (
        np.add.reduceat(counts[flat], ends - lengths[whole], dtype=np.int16).argmax(axis=1)
        for counts in (of_kind, of_label)
    )
    found[1][whole] = of_kind[flat[ends - 1]].argmax(axis=1)
    return found
