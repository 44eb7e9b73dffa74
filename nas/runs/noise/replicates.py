"""Replicates: finished trials that are trained again with other seeds.

A replicate is no trial: it brings no network, and neither study, sampler nor counts know it. Its record lies in
`replicates/<trial>/trials/<replicate>.json` of the run, replicates counted from 1, where nothing that reads the trials
of a run looks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.base.files import write_atomically
from nas.config.evaluators import TRAINED, trained_value
from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.runs.listing import stamp
from nas.runs.noise.model import judge
from nas.runs.pareto import as_points, pareto_mask
from nas.runs.record import TrialRecord, record_path, scan_records

REPLICATES = "replicates"
ASKED = "asked.json"
LEAST_PROBABLE = 0.1
"""What is as probably on the front is trained again."""
PART_BY_DEFAULT = 8


def replicate_dir(run_dir: Path, trial: int) -> Path:
    """The folder of the replicates of a trial, laid out as that of a run is."""
    return Path(run_dir) / REPLICATES / str(trial)


def read_replicates(run_dir: Path) -> dict[int, list[TrialRecord]]:
    """Number of a trial -> the records of its replicates, oldest first; what is unreadable, or a trial of something
    else, is left out."""
    found = {int(path.name): scan_records(path)[0] for path in _folders(run_dir)}
    return {
        trial: kept
        for trial, records in found.items()
        if (kept := [record for record in records if record.replicate_of == trial])
    }


def accuracies(run_dir: Path) -> dict[int, list[float]]:
    """Number of a trial -> the accuracies of its replicates, where one has any."""
    found = {
        trial: [value for record in records if (value := accuracy(record)) is not None]
        for trial, records in read_replicates(run_dir).items()
    }
    return {trial: values for trial, values in found.items() if values}


def accuracy(record: TrialRecord) -> float | None:
    """What the training of a complete record said; None of any other."""
    return trained_value(record.objectives) if record.state == "complete" else None


def signature(run_dir: Path) -> tuple[Any, ...]:
    """Changes when a replicate has finished."""
    return tuple((path.name, stamp(path / "trials")) for path in _folders(run_dir))


def chosen(
    records: Sequence[TrialRecord], objectives: Sequence[ObjectiveConfig], replicates: int | None
) -> list[tuple[TrialRecord, int]]:
    """The replicates that a search asks for: trials, each with the numbers 1, 2, ... of its replicates.

    Those of the front, and those that are on it with a probability of a tenth at least, by their first trainings alone,
    so that a search that goes on chooses the same. With `replicates` None one of each, the most undecided first, for an
    eighth of the trainings; else so many of each.
    """
    if replicates == 0 or all(objective.name not in TRAINED for objective in objectives):
        return []
    complete = [record for record in records if record.state == "complete"]
    num_images = max((record.num_validation for record in complete), default=0)
    points = as_points(complete, objectives)
    judged = judge([record.key for record in complete], points, objectives, num_images)
    front = pareto_mask(points)
    probable = judged.on_front if judged else front.astype(float)  # of records of earlier versions no more is known
    doubt = {
        at: abs(float(probable[at]) - 0.5) for at in range(len(complete)) if front[at] or probable[at] >= LEAST_PROBABLE
    }
    order = [complete[at] for at in sorted(doubt, key=lambda at: (doubt[at], complete[at].number))]
    if replicates is None:
        num_trainings = sum(record.state != "rejected" for record in records)
        return [(record, 1) for record in order[: num_trainings // PART_BY_DEFAULT]]
    return [(record, number) for number in range(1, replicates + 1) for record in order]


def most_replicates(config: ExperimentConfig) -> int:
    """How many trainings a search may add by default; 0 where it says how often, as the front is not known before."""
    noisy = any(objective.name in TRAINED for objective in config.objectives)
    return config.search.num_trials // PART_BY_DEFAULT if noisy and config.search.replicates is None else 0


def left_to_repeat(
    run_dir: Path, config: ExperimentConfig, records: Sequence[TrialRecord]
) -> list[tuple[TrialRecord, int]]:
    """Those of the `chosen` replicates that have not finished; all that are asked for are noted for `progress`."""
    asked = chosen(records, config.objectives, config.search.replicates)
    if asked:
        listed = [[record.number, replicate] for record, replicate in asked]
        write_atomically(Path(run_dir) / REPLICATES / ASKED, json.dumps(listed))
    return [(record, replicate) for record, replicate in asked if not has_record(run_dir, record.number, replicate)]


def has_record(run_dir: Path, trial: int, replicate: int) -> bool:
    return record_path(replicate_dir(run_dir, trial), replicate).exists()


def progress(run_dir: Path) -> tuple[int, int]:
    """How many of the replicates that were asked for have finished, and how many there are."""
    try:
        asked = json.loads((Path(run_dir) / REPLICATES / ASKED).read_text(encoding="utf-8"))
        return sum(has_record(run_dir, int(trial), int(replicate)) for trial, replicate in asked), len(asked)
    except (OSError, ValueError, TypeError):
        return 0, 0


def _folders(run_dir: Path) -> list[Path]:
    found = [path for path in (Path(run_dir) / REPLICATES).glob("[0-9]*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))
