"""RunReader: reads a run folder again and again: its experiment, its environment, its trials in short form."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from array import array
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.config.evaluators import TRAINED
from nas.config.reading import load
from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.runs.listing import stamp
from nas.runs.metrics import METRICS
from nas.runs.pareto import front_positions
from nas.runs.record import RECORD_FORMAT, TrialRecord, record_path
from nas.runs.trial_table import ENDED, EVALUATORS, UNKNOWN_RANGE, Row, TrialTable
from nas.space import specs
from nas.space.genotype import short_name
from nas.space.search_space import SearchSpace

# what reading a file that somebody else wrote as a record may raise
GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError)
# a folder whose time stamp is younger than this may change once more within the same tick of the file system's clock
SETTLED_NS = 2_000_000_000


class RunReader:
    """Incremental reader of a run folder: each `refresh` opens only files that are new or were replaced.

    Records are replaced by renaming, which gives a name another inode; listing a folder tells inodes, so that a look
    at ten thousand known trials asks for no file's status.

    `rows` are the trials by number, `log` the numbers in the order in which they were found (again, when a file was
    replaced). `generation` changes when a file went away or the experiment was replaced and all is read anew.
    `unreadable` has the file names of what is no trial record, `newer` the highest format among them that this version
    does not know yet. The experiment may be missing: `config` is None and `problem` says why.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.generation = 0
        self._frame: list[tuple[int, int] | None] = []
        self._begin()

    def _begin(self) -> None:
        self.generation += 1
        self.rows = TrialTable()
        self.log = array("q")
        self.devices: dict[int, str] = {}
        """By number of the trial, where it is known."""
        self.disturbed: set[int] = set()
        """Trials whose latency was measured while others used the device."""
        self.num_validation = 0
        """Images that accuracies were measured on; 0 where no record says."""
        self.unreadable: list[str] = []
        self.newer: int | None = None
        self.config: ExperimentConfig | None = None
        self.problem: str | None = None
        self.environment: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        """Label -> name of the operator, such as inv7 -> involution."""
        self._labels: dict[str, str] = {}
        self._space: SearchSpace | None = None
        self._unreadable_inodes: dict[str, int] = {}
        self._pending: list[tuple[str, int]] = []
        self._settled: int | None = None

    @property
    def version(self) -> str:
        """Changes with everything that a reader of the run can see."""
        return f"{self.generation}-{len(self.log)}-{len(self.unreadable)}"

    @property
    def num_unread(self) -> int:
        """How many files a `refresh` that was short of time left for the next one."""
        return len(self._pending)

    @property
    def objectives(self) -> Sequence[ObjectiveConfig]:
        """Those of the experiment; where it cannot be read, the measured ones of the trials."""
        if self.config:
            return self.config.objectives
        measured = (~np.isnan(self.rows.column("objectives"))).sum(axis=0)
        return [ObjectiveConfig.model_validate({"name": name}) for i, name in enumerate(METRICS) if measured[i]]

    def ordered(self) -> list[Row]:
        """All trials, oldest first (by finishing time, then number)."""
        return [self.rows.row(at) for at in self.rows.order()]

    def front(self) -> list[Row]:
        """The complete trials that no other dominates, as `pareto.front` has them."""
        return [
            self.rows.row(at)
            for at in front_positions(self.rows.points(self.objectives), self.objectives, self.rows.column("number"))
        ]

    def record(self, number: int) -> TrialRecord:
        """The whole record of a trial in `rows`. Raises KeyError for another number."""
        return TrialRecord.from_json(record_path(self.path, self.rows[number].number).read_text(encoding="utf-8"))

    def refresh(self, seconds: float = math.inf) -> RunReader:
        """Read what is new, for about `seconds` at most. While nothing changes this costs four `stat` calls."""
        frame = [stamp(self.path / name) for name in ("resolved.yaml", "experiment.yaml", "environment.json")]
        if frame != self._frame:
            self._frame = frame
            self._begin()
            self._read_frame()
        if not self._pending:
            self._look()
        end = time.monotonic() + seconds
        while self._pending and time.monotonic() < end:
            self._read_trial(*self._pending.pop())
        return self

    def _read_frame(self) -> None:
        given = [self.path / name for name in ("resolved.yaml", "experiment.yaml") if (self.path / name).exists()]
        try:
            if not given:
                raise FileNotFoundError(f"{self.path / 'resolved.yaml'}: there is no such file")
            self.config = load(given[0])
            self._space = SearchSpace(self.config.space, self.config.training_choices)
            self.kinds = {label: operator.op for label, operator in self.config.space.operators.items()}
        except (ValueError, OSError) as error:
            self.problem = str(error)
        try:
            environment = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
            self.environment = environment if isinstance(environment, dict) else {}
        except (ValueError, OSError):
            self.environment = {}

    def _look(self) -> None:
        """List the folder if it changed, and note what is to be read."""
        folder = self.path / "trials"
        changed = stamp(folder)
        if not changed or changed[0] == self._settled:
            return
        now = time.time_ns()
        if not self._list(folder):
            self._begin()
            self._read_frame()
            self._list(folder)
        self._settled = changed[0] if now - changed[0] > SETTLED_NS else None

    def _list(self, folder: Path) -> bool:
        """Note new and replaced files; False if one that was read is not there any more."""
        positions, inodes = self.rows.positions, self.rows.column("inode").tolist()
        num_read, num_lost = 0, len(self._unreadable_inodes)
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if not name.endswith(".json") or not name[0].isdigit():
                    continue
                stem = name[:-5]
                number = int(stem) if stem.isdecimal() and len(stem) < 19 else -1
                at = positions.get(number) if str(number) == stem else None
                if name in self._unreadable_inodes:
                    num_lost -= 1
                    self._pending.append((name, entry.inode()))
                elif at is None:
                    self._pending.append((name, entry.inode()))
                else:
                    num_read += 1
                    if inodes[at] != entry.inode():
                        self._pending.append((name, entry.inode()))
        if num_read < len(positions) or num_lost:
            self._pending.clear()
            return False
        return True

    def _read_trial(self, name: str, inode: int) -> None:
        try:
            text = (self.path / "trials" / name).read_text(encoding="utf-8")
            record = TrialRecord.from_json(text)
            row = self._row(record)
            if name != f"{row.number}.json":
                raise ValueError(f"the record of trial {row.number} lies in {name}")
            self.rows.put(row, inode, _range(record.costs.get("latency")))
        except FileNotFoundError:
            return  # gone since the folder was listed
        except GARBLED:
            if name not in self._unreadable_inodes:
                self.unreadable.append(name)
                self._note_format(name)
            self._unreadable_inodes[name] = inode
            return
        if self._unreadable_inodes.pop(name, None) is not None:
            self.unreadable.remove(name)
        self.log.append(row.number)
        if isinstance(record.num_validation, int):
            self.num_validation = max(self.num_validation, record.num_validation)
        if record.device:
            self.devices[row.number] = sys.intern(str(record.device))
        latency = record.costs.get("latency")
        if isinstance(latency, dict) and latency.get("disturbed") is True:
            self.disturbed.add(row.number)
        else:
            self.disturbed.discard(row.number)

    def _note_format(self, name: str) -> None:
        """Keep the format of an unreadable record if it is one of a later version of opnas."""
        try:
            written = json.loads((self.path / "trials" / name).read_text(encoding="utf-8")).get("format")
        except GARBLED:
            return
        if isinstance(written, int) and written > RECORD_FORMAT:
            self.newer = max(written, self.newer or 0)

    def _row(self, record: TrialRecord) -> Row:
        stages, dense = record.genotype["stages"], record.genotype.get("dense")
        judged, said = _judged(record)
        return Row(
            number=int(record.number),
            key=str(record.key),
            state=str(record.state),
            objectives=_numbers(record.objectives),
            costs=_numbers(record.costs | said),
            operators=(
                *(tuple(self.label(block["operator"]) for block in stage) for stage in stages),
                *((self.label(dense[place]),) for place in ("neck", "head") if dense),
            ),
            error=None if record.error is None else str(record.error),
            seconds=float(record.seconds),
            started=float(record.started),
            finished=float(record.finished),
            shape=tuple((str(stage[0]["kind"]), int(stage[0]["width"])) for stage in stages if stage),
            judged=judged,
            ended=_ended(record.curve),
        )

    def label(self, operator: dict[str, Any]) -> str:
        """The experiment's label of an operator of a genotype, or a name made from its options.

        Raises ValueError or KeyError for what is no operator.
        """
        written = repr(operator)
        if written not in self._labels:
            spec: Any = specs.OPERATORS.read(operator)
            label = self._space.label(spec) if self._space else short_name(spec)
            self._labels[written] = label
            self.kinds[label] = spec.op
        return self._labels[written]


def _judged(record: TrialRecord) -> tuple[dict[str, float], dict[str, float]]:
    """Of a record: who judged and how long, and what it said but for a training. Earlier versions trained all."""
    if not record.evaluations:
        trained = {"train": float(record.timings.get("train", record.seconds))} if record.curve else {}
        return trained, {}
    judged, said = {}, {}
    for each in record.evaluations:
        name = str(each["evaluator"])
        judged[name if name in EVALUATORS else "own"] = float(each["seconds"])
        said |= {figure: value for figure, value in each["figures"].items() if figure not in TRAINED}
    return judged, said


def reason(error: str | None) -> str:
    """The kind of a failure: what stands before the first colon."""
    return (error or "unknown").split(":")[0].strip() or "unknown"


def _ended(curve: Any) -> dict[str, float]:
    """What the last epoch says; of what is no curve nothing."""
    last = curve[-1] if isinstance(curve, list) and curve else None
    return _numbers(last | {"epochs": len(curve)}, ENDED) if isinstance(last, dict) else {}


def _numbers(values: dict[str, Any], names: Container[str] = METRICS) -> dict[str, float]:
    numbers = ((name, value) for name, value in values.items() if name in names and isinstance(value, int | float))
    return {name: float(value) for name, value in numbers if math.isfinite(value)}


def _range(measured: Any) -> tuple[float, float]:
    """The percentiles of a measured latency; NaN where they are not known."""
    if not isinstance(measured, dict):
        return UNKNOWN_RANGE
    low, high = measured.get("p20_ms"), measured.get("p80_ms")
    if isinstance(low, int | float) and isinstance(high, int | float) and low <= high:
        return float(low), float(high)
    return UNKNOWN_RANGE
