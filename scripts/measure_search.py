"""Measure a search: wall time, trainings, overhead per trial, share of the worker time spent in training.

Usage: measure_search.py [FILE] [RUN]; without RUN it runs `nas search FILE --name measure` first. Prints JSON:
seconds of the whole command, trainings, operators seen, best top1; per trial the overhead beyond data, costs and
training; the share of training in the time from a worker's first trial to its last; start-up times of the command.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from nas.runs.record import TrialRecord, read_records

NAS = [sys.executable, "-m", "nas.cli"]


def seconds_of(*arguments: str, runs: int = 5) -> float:
    """Median wall seconds of a command."""
    times = []
    for _ in range(runs):
        begin = time.monotonic()
        subprocess.run([*NAS, *arguments], check=True, capture_output=True)
        times.append(time.monotonic() - begin)
    return statistics.median(times)


def by_worker(records: list[TrialRecord], workers: int) -> list[list[TrialRecord]]:
    """Trials as their workers had them one after the other: each goes to the worker that was free the longest."""
    rows: list[list[TrialRecord]] = [[] for _ in range(workers)]
    for record in sorted(records, key=lambda record: record.started):
        free = [row for row in rows if not row or row[-1].finished <= record.started + 0.01]
        min(free or rows, key=lambda row: row[-1].finished if row else 0.0).append(record)
    return [row for row in rows if row]


def main() -> None:
    file = sys.argv[1] if len(sys.argv) > 1 else "search_spaces/quickstart.yaml"
    run, wall = (sys.argv[2], None) if len(sys.argv) > 2 else ("measure", 0.0)
    if wall is not None:
        begin = time.monotonic()
        subprocess.run([*NAS, "search", file, "--name", run], check=True, stdout=subprocess.DEVNULL)
        wall = time.monotonic() - begin
    records = [record for record in read_records(Path("results") / run) if record.state != "rejected"]
    rows = by_worker(records, os.cpu_count() or 1)
    gaps = [later.started - earlier.finished for row in rows for earlier, later in pairwise(row)]
    inside = [record.timings["wait"] + record.timings["build"] for record in records]
    span = sum(row[-1].finished - row[0].started for row in rows)
    training = sum(record.timings["train"] for record in records)
    operators = {
        block["operator"]["op"] for record in records for stage in record.genotype["stages"] for block in stage
    }
    environment = json.loads((Path("results") / run / "environment.json").read_text(encoding="utf-8"))
    result = {
        "command": f"scripts/measure_search.py {file}",
        "processor": f"{os.cpu_count()} x {environment['processor']}",
        "versions": environment["versions"] | {"python": environment["python"]},
        "git": environment["git"],
        "seed": environment["seed"],
        "seconds": wall,
        "trainings": len(records),
        "distinct": len({record.key for record in records}),
        "operators": sorted(operators),
        "best_top1": max(record.objectives.get("top1", 0.0) for record in records),
        "workers": len(rows),
        "overhead_s_per_trial": statistics.median(inside) + statistics.median(gaps),
        "between_trials_s": {"median": statistics.median(gaps), "max": max(gaps)},
        "build_and_wait_s": {"median": statistics.median(inside), "max": max(inside)},
        "share_of_training": training / span,
        "help_s": seconds_of("--help"),
        "dry_run_s": seconds_of("search", file, "--dry-run", "--name", "never"),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
