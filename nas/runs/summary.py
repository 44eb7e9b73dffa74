"""summary: progress, counts, failures, pace and circumstances of a run."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from nas.base.locks import is_locked
from nas.config.evaluators import EvaluatorConfig
from nas.runs.folder import LONGER
from nas.runs.listing import is_run
from nas.runs.noise.replicates import REPLICATES, progress
from nas.runs.reader import RunReader, reason
from nas.runs.trial_table import ENDED, EVALUATORS, STATES

QUIET_SECONDS, QUIET_TRIALS = 60.0, 5.0


def summary(run: RunReader, now: float | None = None) -> dict[str, Any]:
    """How far a run is, what became of its trials, and what it ran on.

    `num_trainings` counts what `num_trials` asks for: every trial but the rejected ones. `seconds` are the work of all
    trials, and `wall_seconds` the time from the first start to the last finish. `seconds_left` is a range, None where
    nothing can be said.
    """
    rows, search = run.rows, run.config.search if run.config else None
    states = np.bincount(rows.column("state"), minlength=len(STATES) + 1)
    finished, started = rows.column("finished"), rows.column("started")
    return {
        "run": run.name,
        "state": state_of(run, now),
        "problem": run.problem,
        "newer": run.newer,
        "objectives": [{"name": o.name, "direction": "maximize" if o.maximize else "minimize"} for o in run.objectives],
        "num_trials": search.num_trials if search else None,
        "num_trainings": len(rows) - int(states[STATES.index("rejected")]),
        "replicates": dict(zip(("finished", "asked"), progress(run.path), strict=True)),
        "counts": {state: int(count) for state, count in zip(STATES, states, strict=False)},
        "failures": _reasons(run, "failed"),
        "rejections": _reasons(run, "rejected"),
        "unreadable": sorted(run.unreadable),
        "unread": run.num_unread,
        "evaluators": judges(run),
        "seconds": float(rows.column("seconds").sum()),
        "wall_seconds": float(finished.max() - started.min()) if len(rows) else 0.0,
        "started": float(started.min()) if len(rows) else None,
        "finished": float(finished.max()) if len(rows) else None,
        **_pace(finished[~rows.in_state("rejected")], search.num_trials if search else 0),
        "sampler": search.sampler if search and not origin(run.path) else None,
        "origin": origin(run.path),
        "scheduler": search.scheduler if search else None,
        "seed": search.seed if search else None,
        "device": ", ".join(sorted(set(run.devices.values())))
        or run.environment.get("device")
        or run.environment.get("processor"),
        "disturbed": sorted(run.disturbed),
        "versions": run.environment.get("versions", {}),
    }


def judges(run: RunReader) -> list[dict[str, Any]]:
    """What judging took, a line per evaluator in their order: `evaluator`, `score` of zero_cost, how many `networks`,
    of these how many it `rejected`, `seconds`, `epochs` of training, with those of a supernet; `saved_epochs` and
    `saved_seconds` of a filter: as much as the networks that it rejected would have had on average."""
    stages = run.config.evaluators if run.config else [EvaluatorConfig(name="train")]
    table = run.rows
    took, rejected = table.column("judged_seconds"), table.in_state("rejected")
    epochs = np.nan_to_num(table.column("ended")[:, ENDED.index("epochs")])
    last = took[:, _column(stages[-1].name)]
    mean_epochs, mean_seconds = (
        float(values[last == last].mean()) if (last == last).any() else 0.0 for values in (epochs, last)
    )
    found = []
    for stage in stages:
        seconds = took[:, _column(stage.name)]
        judged = seconds == seconds
        line = {"evaluator": stage.name} | ({"score": stage.score_name} if stage.name == "zero_cost" else {})
        before = trained_before(run.path, stage)
        line |= {"networks": int(judged.sum()), "seconds": float(seconds[judged].sum()) + before[1]}
        line |= {"epochs": before[0] + (int(epochs[judged].sum()) if stage is stages[-1] else 0)}
        if stage is not stages[-1]:
            count = int((judged & rejected).sum())
            saved = {"saved_epochs": count * mean_epochs, "saved_seconds": count * mean_seconds}
            line |= {"rejected": count} | saved
        found.append(line)
    return found


def trained_before(run_dir: Path, stage: EvaluatorConfig) -> tuple[int, float]:
    """Epochs and seconds that an evaluator trained before the first trial; an epoch of several networks counts for each
    of them."""
    try:
        found = json.loads((run_dir / stage.name / "config.json").read_text(encoding="utf-8"))
        return int(found["epochs"]) * int(found["num_paths"]), float(found["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0


def _column(name: str) -> int:
    return EVALUATORS.index(name if name in EVALUATORS else "own")


def origin(run_dir: Path) -> str | None:
    """What trainings are that lie within another run, whose networks were not chosen by a sampler; None for a run."""
    folder = Path(run_dir).resolve()
    of = folder.parent.parent
    if not is_run(of) or folder.parent.name not in (LONGER, REPLICATES):
        return None
    if folder.parent.name == LONGER:
        return f"longer trainings of networks of {of.name}"
    return f"further trainings of trial {folder.name} of {of.name}, with other seeds"


def state_of(run: RunReader, now: float | None = None) -> str:
    """What a run is doing.

    Without a driver: finished or interrupted. With one: waiting (no trial yet), running, or quiet (nothing new for
    five times the usual time of a trial, a minute at least). Unknown where it is not finished and the file system does
    not say whether there is one.
    """
    rows, driven = run.rows, is_locked(run.path / "driver.lock")
    if not driven:
        num_trainings = len(rows) - int(rows.in_state("rejected").sum())
        finished, asked = progress(run.path)
        if run.config and num_trainings >= run.config.search.num_trials and finished == asked:
            return "finished"
        return "interrupted" if driven is False else "unknown"
    if not len(rows):
        return "waiting"
    silence = (time.time() if now is None else now) - float(rows.column("finished").max())
    limit = max(QUIET_TRIALS * float(np.median(rows.column("seconds"))), QUIET_SECONDS)
    return "running" if silence < limit else "quiet"


def _reasons(run: RunReader, state: str) -> dict[str, int]:
    """Kind of a failure -> how many trials ended with it, the most frequent first."""
    found = np.flatnonzero(run.rows.in_state(state)).tolist()
    return dict(Counter(reason(run.rows.errors.get(at)) for at in found).most_common())


def _pace(finished: np.ndarray, asked: int) -> dict[str, Any]:
    """Trainings per minute lately, and the range of the seconds left (two standard errors either way)."""
    gaps = np.diff(np.sort(finished)[-50:])
    # a gap many times the usual one is a pause between two drivers
    gaps = gaps[gaps <= 20 * max(float(np.median(gaps)), 1.0)] if len(gaps) else gaps
    if len(gaps) < 2 or not gaps.mean():
        return {"trainings_per_minute": None, "seconds_left": None}
    mean, spread = float(gaps.mean()), float(gaps.std(ddof=1))
    left = max(asked - len(finished), 0)
    middle, error = left * mean, 2 * spread * (left + left**2 / len(gaps)) ** 0.5
    return {
        "trainings_per_minute": 60 / mean,
        "seconds_left": [max(middle - error, left * mean / 4), middle + error] if left else None,
    }
