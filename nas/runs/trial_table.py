"""TrialTable: the trials of a run in columns, so that a hundred thousand fit in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from nas.config.evaluators import ShippedEvaluator
from nas.config.sections import ObjectiveConfig
from nas.runs.metrics import METRICS

Shape = tuple[tuple[str, int], ...]
"""Of each stage, the kind and the width of its first block."""
UNKNOWN_RANGE = (float("nan"), float("nan"))
EVALUATORS = (*get_args(ShippedEvaluator), "own")
"""Those of the package, and all others."""
STATES = ("complete", "stopped", "failed", "rejected")
ENDED = ("epochs", "train_loss", "val_loss")
"""What a trial is known by from the last epoch that it trained."""
COLUMNS = np.dtype(
    [
        ("number", "i8"),
        ("inode", "u8"),
        ("state", "u1"),  # index into STATES; len(STATES) for any other
        ("objectives", "f8", (len(METRICS),)),  # NaN where unknown
        ("costs", "f8", (len(METRICS),)),
        ("ended", "f8", (len(ENDED),)),
        ("latency_low", "f8"),
        ("latency_high", "f8"),
        ("seconds", "f8"),
        ("judged_seconds", "f8", (len(EVALUATORS),)),  # NaN where an evaluator did not judge
        ("started", "f8"),
        ("finished", "f8"),
    ]
)


@dataclass(frozen=True)
class Row:
    """A trial without its genotype and curve, which stay on disk; fields as in TrialRecord."""

    number: int
    key: str
    state: str
    objectives: dict[str, float]
    costs: dict[str, float]
    operators: tuple[tuple[str, ...], ...]
    """Labels of the operators, block by block, stage by stage; of a detector that of its neck and that of its head
    behind them, see `places`."""
    error: str | None
    seconds: float
    started: float
    finished: float
    shape: Shape = ()
    judged: dict[str, float] = field(default_factory=dict)
    """Of EVALUATORS, who judged it, and the seconds that took."""
    ended: dict[str, float] = field(default_factory=dict)
    """Those of ENDED that are known."""

    def value(self, name: str) -> float | None:
        """An objective or else a cost."""
        return self.objectives.get(name, self.costs.get(name))


def places(num_stages: int, count: int) -> list[str]:
    """What `count` entries of `Row.operators` are called, of which so many are stages (the length of `shape`)."""
    return [*(f"stage {i + 1}" for i in range(num_stages)), "neck", "head"][:count]


class TrialTable(Mapping[int, Row]):
    """Number -> trial, in the order in which they were first put; `column(name)` is a trial per entry in that order.

    `operators[i]` of a trial are indices into `stages`, the distinct stages of the run as labels, block by block;
    trials of one shape share one object in `shapes`.
    """

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self.keys: list[str] = []
        self.operators: list[tuple[int, ...]] = []
        self.stages: list[tuple[str, ...]] = []
        self.shapes: list[Shape] = []
        self.errors: dict[int, str] = {}
        self._shape_of: dict[Shape, Shape] = {}
        self._stage_index: dict[tuple[str, ...], int] = {}
        self._data = np.empty(64, COLUMNS)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __getitem__(self, number: int) -> Row:
        return self.row(self.positions[number])

    def put(self, row: Row, inode: int = 0, latency_range: tuple[float, float] = UNKNOWN_RANGE) -> None:
        """Add a trial, or replace the one with its number.

        `latency_range` is the 20th and 80th percentile of the runs that measured its latency; `inode` that of its file.
        """
        at = self.positions.setdefault(row.number, len(self.positions))
        if at == len(self.keys):
            self.keys.append("")
            self.operators.append(())
            self.shapes.append(())
            if at == len(self._data):
                self._data = np.resize(self._data, 2 * at)
        self.keys[at] = row.key
        self.operators[at] = tuple(self._interned(stage) for stage in row.operators)
        self.shapes[at] = self._shape_of.setdefault(row.shape, row.shape)
        self.errors.pop(at, None)
        if row.error is not None:
            self.errors[at] = row.error
        nothing = float("nan")
        self._data[at] = (
            row.number,
            inode,
            STATES.index(row.state) if row.state in STATES else len(STATES),
            tuple(row.objectives.get(name, nothing) for name in METRICS),
            tuple(row.costs.get(name, nothing) for name in METRICS),
            tuple(row.ended.get(name, nothing) for name in ENDED),
            *latency_range,
            row.seconds,
            tuple(row.judged.get(name, nothing) for name in EVALUATORS),
            row.started,
            row.finished,
        )

    def row(self, at: int) -> Row:
        """The trial at a position."""
        data = self._data[at]
        state = int(data["state"])
        return Row(
            number=int(data["number"]),
            key=self.keys[at],
            state=STATES[state] if state < len(STATES) else "unknown",
            objectives=_known(METRICS, data["objectives"]),
            costs=_known(METRICS, data["costs"]),
            operators=tuple(self.stages[stage] for stage in self.operators[at]),
            error=self.errors.get(at),
            seconds=float(data["seconds"]),
            started=float(data["started"]),
            finished=float(data["finished"]),
            shape=self.shapes[at],
            judged=_known(EVALUATORS, data["judged_seconds"]),
            ended=_known(ENDED, data["ended"]),
        )

    def column(self, name: str) -> NDArray[Any]:
        """A column of COLUMNS: [number of trials, ...]."""
        return self._data[name][: len(self.positions)]

    def measured(self, name: str) -> NDArray[np.float64]:
        """An objective of METRICS or else a cost, NaN where unknown: [number of trials]."""
        which = list(METRICS).index(name)
        objectives = self.column("objectives")[:, which]
        return np.where(np.isnan(objectives), self.column("costs")[:, which], objectives)

    def order(self) -> NDArray[np.int64]:
        """Positions of the trials, oldest first (by finishing time, then number)."""
        return np.lexsort((self.column("number"), self.column("finished")))

    def in_state(self, state: str) -> NDArray[np.bool_]:
        return self.column("state") == STATES.index(state)

    def points(self, objectives: Sequence[ObjectiveConfig]) -> NDArray[np.float64]:
        """As `pareto.as_points`: [number of trials, M], lower is better, NaN for what was not trained to the end."""
        names = list(METRICS)
        columns = [names.index(objective.name) for objective in objectives]
        signs = np.array([-1.0 if objective.maximize else 1.0 for objective in objectives])
        points = self.column("objectives")[:, columns] * signs
        points[~self.in_state("complete")] = np.nan
        return points

    def trained_points(self, objectives: Sequence[ObjectiveConfig]) -> NDArray[np.float64]:
        """`points` of the trials that were trained, oldest first."""
        order = self.order()
        return self.points(objectives)[order[~self.in_state("rejected")[order]]]

    def _interned(self, stage: tuple[str, ...]) -> int:
        if stage not in self._stage_index:
            self._stage_index[stage] = len(self.stages)
            self.stages.append(stage)
        return self._stage_index[stage]


def _known(names: Iterable[str], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True) if value == value}
