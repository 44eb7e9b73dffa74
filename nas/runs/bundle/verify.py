"""verify: everything that a run claims, made again from its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas.runs.bundle.archive import claims
from nas.runs.record import TrialRecord
from nas.space.genotype import Genotype
from nas.space.training import key_of

PRECISION = 1e-9


def differences(run_dir: Path, claimed: dict[str, Any]) -> list[str]:
    """What does not hold of a run in `run_dir` that claims this: each record readable and where it belongs, each key
    that of its genotype, and front, hypervolume, intervals and counts those of the records. No code of the run runs."""
    wrong = []
    for path in sorted([*run_dir.glob("trials/*.json"), *run_dir.glob("replicates/*/trials/*.json")]):
        if problem := _of_record(path, run_dir):
            wrong.append(f"{path.relative_to(run_dir)}: {problem}")
    found = json.loads(json.dumps(claims(run_dir)))
    wrong += [
        f"{name}: the records say {_short(found.get(name))}, claimed is {_short(claimed.get(name))}"
        for name in sorted(found.keys() | claimed.keys())
        if not _alike(found.get(name), claimed.get(name))
    ]
    return wrong


def _of_record(path: Path, run_dir: Path) -> str | None:
    try:
        record = TrialRecord.from_json(path.read_text(encoding="utf-8"))
        key = key_of(Genotype.from_dict(record.genotype), record.params)
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        return str(problem).splitlines()[0]
    if path.name != f"{record.number}.json":
        return f"it is the record of {record.number}"
    parts = path.relative_to(run_dir).parts
    of = int(parts[1]) if parts[0] == "replicates" else None
    if record.replicate_of != of:
        return f"it is {'a trial' if record.replicate_of is None else f'a replicate of {record.replicate_of}'}"
    return None if key == record.key else f"its network has the key {key}, not {record.key}"


def _alike(one: Any, other: Any) -> bool:
    """Equal, numbers but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= PRECISION * max(abs(one), abs(other), 1.0)
    return one == other


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
