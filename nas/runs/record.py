"""TrialRecord: what one trial produced, as one JSON file. Records are the source of truth of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from nas.base.errors import UserError
from nas.base.files import write_atomically

State = Literal["complete", "stopped", "failed", "rejected"]
RECORD_FORMAT = 1
MEASURED = "measured"
"""Kind of the rejection of a network whose costs alone were asked for."""
CHECKSUM = ',\n "checksum": "'


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One finished trial.

    State: complete (trained to the end), stopped (early, its accuracy is not comparable), failed (see `error`),
    rejected (never trained: known key, a constraint broken, dominated whatever it had reached, not passed by a filter,
    or only measured).
    """

    number: int
    key: str
    state: State
    genotype: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    """The search space parameters that it was decoded from; labels of operators among them."""
    seed: int = 0
    objectives: dict[str, float] = field(default_factory=dict)
    """Objective name -> value: top1 as a fraction or the score in its place, latency_ms, num_params, num_macs,
    peak_memory_mb (10^6 bytes)."""
    costs: dict[str, Any] = field(default_factory=dict)
    """Every known cost, objective or not, and the spread of the measured ones."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """What judged it, in order: `evaluator`, `figures` (name -> value, none where it said nothing), `seconds`, `epochs`
    that it trained; of zero_cost which `score`; of a filter that rejected it why, as `rejected`."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One row per epoch: epoch (from 1), train_loss, top1, seconds and more."""
    seconds: float = 0.0
    """Wall time of the attempt that ended the trial, in its worker; of a stopped one, of its epochs."""
    timings: dict[str, float] = field(default_factory=dict)
    """Those seconds by phase: data, build, cost, each evaluator's name, wait (for the driver)."""
    error: str | None = None
    """`kind: message` of a failed or rejected trial."""
    attempts: int = 1
    started: float = 0.0
    """Unix time at which the first attempt began."""
    finished: float = 0.0
    host: str = ""
    """Name of the host that it ended on; empty where no process ended it."""
    device: str = ""
    """Name of the GPU, or else of the processor, that it trained on."""
    num_validation: int = 0
    """Images that its accuracies were measured on; 0 where none was, and in records of earlier versions."""
    replicate_of: int | None = None
    """Of a training that repeats a finished trial with another seed: the number of that trial."""
    format: int = RECORD_FORMAT

    @property
    def only_measured(self) -> bool:
        """Whether its costs alone were asked for: the network may still be trained, under another number."""
        return self.state == "rejected" and (self.error or "").startswith(f"{MEASURED}: ")

    def to_json(self) -> str:
        values = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        return f'{values[:-2]}{CHECKSUM}{_checksum(values)}"\n}}'

    @staticmethod
    def from_json(text: str) -> TrialRecord:
        """Raises ValueError for anything that is not a record of this format, or not what was written.

        A record of an earlier version has no checksum, and is believed.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format", RECORD_FORMAT) != RECORD_FORMAT:
            raise ValueError(f"not a trial record of format {RECORD_FORMAT}")
        written = data.pop("checksum", None)
        as_written = written is None or written == _checksum(text.rpartition(CHECKSUM)[0] + "\n}")
        if not as_written and written != _checksum(json.dumps(data, indent=1)):  # nor the same in another layout
            raise ValueError("its values are not those that were written (wrong checksum)")
        names = {item.name for item in dataclasses.fields(TrialRecord)}
        try:
            return TrialRecord(**{name: value for name, value in data.items() if name in names})
        except TypeError as error:
            raise ValueError(f"not a trial record: {error}") from None


def record_path(run_dir: Path, number: int) -> Path:
    return Path(run_dir) / "trials" / f"{number}.json"


def write_record(run_dir: Path, record: TrialRecord) -> None:
    """Write a record so that after a crash the file is whole or absent: temporary name, fsync, rename, fsync."""
    write_atomically(record_path(run_dir, record.number), record.to_json())


def finished_record(run_dir: Path, number: int, key: str) -> TrialRecord | None:
    """The record of a trial, if it is there and of the network with that key.

    What else lies in its place, as a full disk, a crash or the trial of another study leaves it, is set aside as
    `<number>.json.unreadable` or `<number>.json.other`, so that the trial can be recorded.
    """
    path = record_path(run_dir, number)
    try:
        record = TrialRecord.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        path.replace(path.with_name(f"{path.name}.unreadable"))
        return None
    if record.key != key:
        path.replace(path.with_name(f"{path.name}.other"))
        return None
    return record


def set_aside(run_dir: Path, number: int) -> None:
    """Keep a record as `<number>.json.retried`, which no reader takes for one, so that the trial can have another."""
    path = record_path(run_dir, number)
    path.replace(path.with_name(f"{path.name}.retried"))


def read_records(run_dir: str | Path) -> list[TrialRecord]:
    """The records of a run, oldest first (by finishing time, then number). Unreadable files raise ValueError."""
    records, unreadable = scan_records(run_dir)
    if unreadable:
        raise ValueError(f"unreadable trial record: {unreadable[0]}")
    return records


def scan_records(run_dir: str | Path) -> tuple[list[TrialRecord], list[Path]]:
    """Like `read_records`, with the unreadable files listed instead of raised."""
    records, unreadable = [], []
    for path in sorted((Path(run_dir) / "trials").glob("[0-9]*.json")):
        try:
            records.append(TrialRecord.from_json(path.read_text(encoding="utf-8")))
        except (ValueError, OSError):
            unreadable.append(path)
    return sorted(records, key=lambda record: (record.finished, record.number)), unreadable


def find_record(run_dir: str | Path, key: str, states: Collection[State] = get_args(State)) -> TrialRecord:
    """The trial of a run whose key begins with `key`; UserError where there is not exactly one in one of `states`."""
    records, _ = scan_records(run_dir)
    trained = {record.key: record for record in reversed(records) if record.state in states}
    found = [record for name, record in trained.items() if name.startswith(key)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(record.key for record in found) or ", ".join(list(trained)[:8]) or "none"
    kind = "finished architecture" if tuple(states) == ("complete",) else "architecture"
    what = "fits several architectures" if found else f"is no {kind}"
    there = f"{'they are' if found else 'there are'} {names}"
    raise UserError(f"--key {key!r} {what} of {Path(run_dir).name}; {there}")


def _checksum(values: str) -> str:
    """Sixteen hexadecimal digits over the text of all other fields."""
    return hashlib.blake2b(values.encode(), digest_size=8).hexdigest()
