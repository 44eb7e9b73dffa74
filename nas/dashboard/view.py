"""RunView: what the page of a run is told, kept up to date from the run's files."""

from __future__ import annotations

import math
import os
import secrets
import shlex
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas import specs
from nas.pareto import as_points, front, hypervolume, reference_point
from nas.report import STATES, state_of, summary
from nas.run_files import METRICS, Row, RunReader, reason

# how many of the last trainings tell whether going on is worth it: a tenth, but no fewer than this
FEWEST_FOR_A_GAIN = 10


class RunView:
    """One run for any number of page views; every method may be called from any thread.

    A version is `<token>-<generation>-<length of the log>-<number of unreadable files>`: the token belongs to this
    process, so that a page which outlives the server starts anew instead of missing trials.
    """

    def __init__(self, path: Path):
        self.run = RunReader(path)
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._summary: tuple[str, dict[str, Any]] | None = None

    def version(self) -> str:
        """The version after reading what is new."""
        with self._lock:
            self.run.refresh()
            return self._version()

    def snapshot(self) -> dict[str, Any]:
        """All that the page needs to begin with."""
        with self._lock:
            self.run.refresh()
            return {
                "version": self._version(),
                "metrics": [{"name": name} | asdict(metric) for name, metric in METRICS.items()],
                "states": STATES,
            } | self._changes(list(self.run.rows))

    def changes(self, since: str) -> dict[str, Any]:
        """What became known after a version; `reset` where that is not known here, and all must be asked for again."""
        with self._lock:
            self.run.refresh()
            now, before = self._version(), since.split("-")
            if before[:2] != now.split("-")[:2] or len(before) != 4 or not before[2].isdecimal():
                return {"version": now, "reset": True}
            return {"version": now} | self._changes(list(dict.fromkeys(self.run.log[int(before[2]) :])))

    def summary(self) -> dict[str, Any]:
        """Progress, counts, failures and hypervolume, without any trial."""
        with self._lock:
            self.run.refresh()
            return self._summed() | self._state()

    def trial(self, number: int) -> dict[str, Any]:
        """One trial in full. Raises KeyError for a number that is not in the run."""
        with self._lock:
            record = self.run.record(number)
            stages = [[_block(block, self.run) for block in stage] for stage in record.genotype["stages"]]
            row = self.run.rows[number]
        return {
            "number": row.number,
            "key": row.key,
            "state": row.state,
            "error": row.error,
            "seed": record.seed,
            "attempts": record.attempts,
            "seconds": row.seconds,
            "finished": row.finished,
            "values": row.costs | row.objectives,
            "latency": _latency(record.costs.get("latency")),
            "curve": [_finite(epoch) for epoch in record.curve],
            "stem": record.genotype["stem"]["kind"],
            "head": record.genotype.get("head", {}).get("kind", "linear"),
            "stages": stages,
            "command": retrain_command(self.run.path, row.key),
        }

    def _version(self) -> str:
        return f"{self._token}-{self.run.version}"

    def _changes(self, numbers: list[int]) -> dict[str, Any]:
        rows = [self.run.rows[number] for number in numbers]
        members = front(list(self.run.rows.values()), self.run.objectives)
        return {
            "summary": self._summed() | self._state(),
            "kinds": dict(self.run.kinds),
            "front": [{"number": row.number, "operators": row.operators} for row in members],
            "rows": {
                "number": [row.number for row in rows],
                "key": [row.key for row in rows],
                "state": [STATES.index(row.state) if row.state in STATES else len(STATES) for row in rows],
                "values": {name: [row.value(name) for row in rows] for name in METRICS},
            },
        }

    def _state(self) -> dict[str, str]:
        """The part of the summary that changes with time alone."""
        return {"state": state_of(self.run, self.run.ordered())}

    def _summed(self) -> dict[str, Any]:
        """The rest, made once per version."""
        version = self._version()
        if self._summary is None or self._summary[0] != version:
            rows = self.run.ordered()
            examples: dict[str, str] = {}
            for row in rows:
                if row.state == "failed":
                    examples.setdefault(reason(row.error), row.error or "unknown")
            told = summary(self.run, rows) | {"examples": examples, "hypervolume": _volume(self.run, rows)}
            self._summary = (version, told)
        return self._summary[1]


def retrain_command(run_dir: Path, key: str) -> str:
    """The command that retrains a network, for a shell in the folder where the dashboard was started."""
    path = os.path.relpath(run_dir)
    path = str(run_dir.resolve()) if path.startswith("..") else path
    return shlex.join(["nas", "retrain", path, "--key", key, "--data", "DIR"])


def _volume(run: RunReader, rows: list[Row]) -> dict[str, Any] | None:
    """The hypervolume as a share of the box between the best values and the reference, and what came lately."""
    trainings = [row for row in rows if row.state != "rejected"]
    points = as_points(trainings, run.objectives)
    known = points[(points == points).all(axis=1)]
    if len(run.objectives) < 2 or len(known) < 3:
        return None
    reference = reference_point(known)
    box = float((reference - known.min(axis=0)).prod())
    window = max(len(trainings) // 10, FEWEST_FOR_A_GAIN)
    value = hypervolume(known, reference)
    # the share of the value that the last trainings added says nothing while they are nearly all there are
    added = 1 - hypervolume(points[:-window], reference) / value if len(trainings) >= 2 * window else None
    return {"share": value / box, "added": added, "window": window}


def _block(block: dict[str, Any], run: RunReader) -> dict[str, Any]:
    """A block in words and with the names that its colour hangs on."""
    operator = block["operator"]
    pointwise = block.get("pointwise")
    return {
        "kind": str(block["kind"]),
        "width": block["width"],
        "stride": block.get("stride", 1),
        "operator": str(operator["op"]),
        "label": run.label(operator),
        "pointwise": run.label(pointwise) if pointwise else None,
        "options": _options(operator),
    }


def _options(operator: dict[str, Any]) -> str:
    """The options of an operator that differ from its usual ones, such as `kernel size 5, groups depthwise`."""
    usual = asdict(specs.OPERATORS[operator["op"]]())
    shown = {name: value for name, value in operator.items() if name != "op" and value != usual.get(name)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def _finite(row: dict[str, Any]) -> dict[str, float]:
    return {str(name): value for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}


def _latency(measured: Any) -> str | None:
    """How the latency of a record scattered and where it was measured, in words."""
    if not isinstance(measured, dict):
        return None
    figures = _finite(measured)
    words = []
    if {"p20_ms", "p80_ms", "num_runs"} <= figures.keys():
        low, high, count = (figures[name] for name in ("p20_ms", "p80_ms", "num_runs"))
        words.append(f"latency: the middle 60 % of {count:.0f} runs took between {low:.3f} and {high:.3f} ms")
    place = [str(measured["device"])] if "device" in measured else []
    if "batch_size" in figures:
        place.append(f"batch of {figures['batch_size']:.0f}")
    if "dtype" in measured:
        place.append(str(measured["dtype"]))
    if "num_threads" in figures and str(measured.get("device")) == "cpu":
        place.append(f"{figures['num_threads']:.0f} thread" + ("" if figures["num_threads"] == 1 else "s"))
    return "; ".join([*words, ", ".join(place)]) or None
