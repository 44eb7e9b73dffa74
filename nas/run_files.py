"""A run folder as files: what was asked, where it runs, and its trials in short form. Needs no torch, ray or optuna."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import specs
from nas.config import ExperimentConfig, ObjectiveConfig, load
from nas.errors import UserError
from nas.genotype import short_name
from nas.record import TrialRecord, record_path
from nas.space import SearchSpace

RUN_MARKS = ("resolved.yaml", "experiment.yaml", "trials")
# what reading a file that somebody else wrote as a record may raise
GARBLED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError)
# a folder whose time stamp is younger than this may change once more within the same tick of the file system's clock
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Metric:
    """How an objective or a cost is shown: value x `scale` in `unit`, with that many decimals."""

    title: str
    unit: str
    scale: float
    decimals: int
    maximize: bool = False

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})"

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value * self.scale:,.{self.decimals}f}"


METRICS = {
    "top1": Metric("top-1 accuracy", "%", 100, 2, maximize=True),
    "latency_ms": Metric("latency", "ms", 1, 3),
    "num_params": Metric("parameters", "M", 1e-6, 3),
    "num_macs": Metric("MACs", "M", 1e-6, 2),
    "peak_memory_mb": Metric("peak memory", "MB", 1, 1),
}


@dataclass(frozen=True)
class Row:
    """A trial without its genotype and curve, which stay on disk; fields as in TrialRecord."""

    number: int
    key: str
    state: str
    objectives: dict[str, float]
    costs: dict[str, float]
    operators: tuple[tuple[str, ...], ...]
    """Labels of the operators, block by block, stage by stage."""
    error: str | None
    seconds: float
    started: float
    finished: float

    def value(self, name: str) -> float | None:
        """An objective or else a cost."""
        return self.objectives.get(name, self.costs.get(name))


class RunReader:
    """A run folder that is read again and again, only new and replaced files being opened.

    Records are replaced by renaming, which gives a name another inode; listing a folder tells inodes, so that a look
    at ten thousand known trials asks for no file's status.

    `rows` are the trials by number, `log` the numbers in the order in which they were found (again, when a file was
    replaced). `generation` changes when a file went away or the experiment was replaced and all is read anew.
    `unreadable` has the file names of what is no trial record. The experiment may be missing: `config` is None
    and `problem` says why.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.generation = 0
        self._frame: list[tuple[int, int] | None] = []
        self._begin()

    def _begin(self) -> None:
        self.generation += 1
        self.rows: dict[int, Row] = {}
        self.log: list[int] = []
        self.unreadable: list[str] = []
        self.config: ExperimentConfig | None = None
        self.problem: str | None = None
        self.environment: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        """Label -> name of the operator, such as inv7 -> involution."""
        self._labels: dict[str, str] = {}
        self._space: SearchSpace | None = None
        self._inodes: dict[str, int] = {}
        self._settled: int | None = None

    @property
    def version(self) -> str:
        """Changes with everything that a reader of the run can see."""
        return f"{self.generation}-{len(self.log)}-{len(self.unreadable)}"

    @property
    def objectives(self) -> Sequence[ObjectiveConfig]:
        """Those of the experiment; where it cannot be read, the known ones of the first trial that has any."""
        if self.config:
            return self.config.objectives
        named = next((row.objectives for row in self.rows.values() if row.objectives), {})
        return [ObjectiveConfig.model_validate({"name": name}) for name in METRICS if name in named]

    def ordered(self) -> list[Row]:
        """All trials, oldest first (by finishing time, then number)."""
        return sorted(self.rows.values(), key=lambda row: (row.finished, row.number))

    def record(self, number: int) -> TrialRecord:
        """The whole record of a trial in `rows`. Raises KeyError for another number."""
        return TrialRecord.from_json(record_path(self.path, self.rows[number].number).read_text())

    def refresh(self) -> RunReader:
        """Read what is new. While nothing changes this costs four `stat` calls."""
        frame = [_signature(self.path / name) for name in ("resolved.yaml", "experiment.yaml", "environment.json")]
        if frame != self._frame:
            self._frame = frame
            self._begin()
            self._read_frame()
        folder = self.path / "trials"
        changed = _signature(folder)
        if changed and changed[0] != self._settled:
            now = time.time_ns()
            self._read_trials(folder)
            self._settled = changed[0] if now - changed[0] > SETTLED_NS else None
        return self

    def _read_frame(self) -> None:
        given = [self.path / name for name in ("resolved.yaml", "experiment.yaml") if (self.path / name).exists()]
        try:
            if not given:
                raise FileNotFoundError(f"{self.path / 'resolved.yaml'}: there is no such file")
            self.config = load(given[0])
            self._space = SearchSpace(self.config.space)
            self.kinds = {label: operator.op for label, operator in self.config.space.operators.items()}
        except (ValueError, OSError) as error:
            self.problem = str(error)
        try:
            environment = json.loads((self.path / "environment.json").read_text())
            self.environment = environment if isinstance(environment, dict) else {}
        except (ValueError, OSError):
            self.environment = {}

    def _read_trials(self, folder: Path) -> None:
        with os.scandir(folder) as entries:
            inodes = {e.name: e.inode() for e in entries if e.name.endswith(".json") and e.name[0].isdigit()}
        if self._inodes.keys() - inodes.keys():
            self._begin()
            self._read_frame()
        for name, inode in inodes.items():
            if self._inodes.get(name) != inode or name in self.unreadable:
                self._inodes[name] = inode
                self._read_trial(name)

    def _read_trial(self, name: str) -> None:
        try:
            row = self._row(TrialRecord.from_json((self.path / "trials" / name).read_text()))
            if name != f"{row.number}.json":
                raise ValueError(f"the record of trial {row.number} lies in {name}")
        except GARBLED:
            if name not in self.unreadable:
                self.unreadable.append(name)
            return
        if name in self.unreadable:
            self.unreadable.remove(name)
        self.rows[row.number] = row
        self.log.append(row.number)

    def _row(self, record: TrialRecord) -> Row:
        stages = record.genotype["stages"]
        return Row(
            number=int(record.number),
            key=str(record.key),
            state=str(record.state),
            objectives=_numbers(record.objectives),
            costs=_numbers(record.costs),
            operators=tuple(tuple(self.label(block["operator"]) for block in stage) for stage in stages),
            error=None if record.error is None else str(record.error),
            seconds=float(record.seconds),
            started=float(record.started),
            finished=float(record.finished),
        )

    def label(self, operator: dict[str, Any]) -> str:
        """The experiment's label of an operator of a genotype, or a name made from its options.

        Raises ValueError or KeyError for what is no operator.
        """
        written = repr(operator)
        if written not in self._labels:
            kind = specs.OPERATORS[operator["op"]]
            spec = specs.make("operator", kind, operator)
            label = self._space.label(spec) if self._space else short_name(spec)
            self._labels[written] = label
            self.kinds[label] = spec.op
        return self._labels[written]


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((path / name).exists() for name in RUN_MARKS)


def find_runs(path: str | Path) -> dict[str, Path]:
    """Name -> folder of the run at `path`, or of the runs in it, the newest first.

    Raises UserError if there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    if is_run(path):
        return {path.resolve().name: path}
    runs = [folder for folder in path.iterdir() if folder.is_dir() and is_run(folder)]
    runs.sort(key=lambda folder: (-_changed(folder), folder.name))
    return {folder.name: folder for folder in runs}


def reason(error: str | None) -> str:
    """The kind of a failure: what stands before the first colon."""
    return (error or "unknown").split(":")[0].strip() or "unknown"


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    known = {name: float(values[name]) for name in METRICS if isinstance(values.get(name), int | float)}
    return {name: value for name, value in known.items() if math.isfinite(value)}


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _changed(folder: Path) -> int:
    return max((signature[0] for name in RUN_MARKS if (signature := _signature(folder / name))), default=0)
