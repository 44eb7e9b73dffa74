"""How far a run is, read from its files."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from nas.config import load
from nas.pareto import front
from nas.record import scan_records
from nas.run_lock import holder, is_locked


def run_status(run_dir: Path) -> dict[str, Any]:
    """State of a run: running, interrupted or finished; trials by state; what is under way; front size; last news."""
    config = load(run_dir / "resolved.yaml")
    records, unreadable = scan_records(run_dir)
    counts = Counter(record.state for record in records)
    trained = len(records) - counts["rejected"]
    running = is_locked(run_dir / "driver.lock")
    done = trained >= config.search.num_trials
    finished = {record.number for record in records}
    started = {int(path.name) for path in (run_dir / "checkpoints").glob("[0-9]*") if path.name.isdigit()}
    return {
        "run": run_dir.resolve().name,
        "state": "running" if running else "finished" if done else "interrupted",
        "holder": holder(run_dir / "driver.lock") if running else None,
        "num_trials": config.search.num_trials,
        "trained": trained,
        "states": dict(counts),
        "under_way": sorted(started - finished),
        "front": len(front(records, config.objectives)),
        "unreadable": [path.name for path in unreadable],
        "last_record": max((record.finished for record in records), default=None),
    }


def to_text(status: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in sorted(status["states"].items()))
    lines = [
        f"{status['run']}: {status['state']}" + (f" by {status['holder']}" if status["holder"] else ""),
        f"{status['trained']} of {status['num_trials']} trainings ({states or 'none finished'})",
        f"{status['front']} on the front",
    ]
    if status["under_way"]:
        under_way = ", ".join(map(str, status["under_way"]))
        lines.append(f"under way{'' if status['state'] == 'running' else ' when it was interrupted'}: {under_way}")
    if status["last_record"]:
        lines.append(f"last finished {time.strftime('%F %T', time.localtime(status['last_record']))}")
    if status["unreadable"]:
        lines.append(f"unreadable records: {', '.join(status['unreadable'])}")
    if status["state"] == "interrupted":
        lines.append(f"go on with: nas search results/{status['run']}/experiment.yaml --name {status['run']} --resume")
    return "\n".join(lines)
