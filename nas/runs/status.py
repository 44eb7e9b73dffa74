"""The state of a run for `nas status`: its summary, its driver, its unfinished trials."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.locks import holder
from nas.runs.listing import is_run
from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.report_text import judge_words, judged_noun, table
from nas.runs.retrainings import listed, read_retrainings, retrained_folders
from nas.runs.summary import summary


def run_status(run_dir: Path) -> dict[str, Any]:
    """`summary.summary` of a run with its folder, its driver (None where none runs), unfinished trials and the size of
    the front. Raises UserError if `run_dir` is no run."""
    if not is_run(run_dir):
        raise UserError(f"{run_dir}: this is no run folder; it has no resolved.yaml and no trials/")
    reader = RunReader(run_dir)
    reader.refresh()
    state = summary(reader)
    driven = state["state"] in ("waiting", "running", "quiet")
    started = {int(path.name): path for path in (run_dir / "checkpoints").glob("[0-9]*") if path.name.isdigit()}
    left = sorted(set(started) - set(reader.rows))
    waiting = [number for number in left if (started[number] / "waiting.json").exists()]
    return state | {
        "path": str(run_dir),
        "holder": holder(run_dir / "driver.lock") if driven else None,
        "under_way": [number for number in left if number not in waiting],
        "waiting": waiting,
        "front": len(reader.front()),
    }


def to_text(status: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in status["counts"].items() if count)
    lines = [
        f"{status['run']}: {status['state']}" + (f", searched by {status['holder']}" if status["holder"] else ""),
        f"{status['num_trainings']} of {status['num_trials']} {judged_noun(status)} ({states or 'none finished'})",
        f"{status['front']} on the front",
    ]
    if status["under_way"]:
        numbers = ", ".join(map(str, status["under_way"]))
        then = " when it was interrupted" if status["state"] == "interrupted" else ""
        lines.append(f"under way{then}: trial {numbers}")
    if status["replicates"]["asked"]:
        lines.append("{finished} of {asked} replicates".format_map(status["replicates"]))
    if status["waiting"]:
        lines.append(f"trained to a rung, and waiting to be promoted: {len(status['waiting'])} trials")
    if status["finished"]:
        lines.append(f"last finished {time.strftime('%F %T', time.localtime(status['finished']))}")
    if status["unreadable"]:
        lines.append(f"unreadable records: {', '.join(status['unreadable'])}")
    if status["state"] == "unknown":
        lines.append("whether a driver runs cannot be seen: the file system keeps no locks")
    if status["state"] == "interrupted":
        lines.append(f"go on with: nas search --resume {shlex.quote(status['path'])}")
    return "\n".join(lines)


def to_line(status: dict[str, Any]) -> str:
    """Of a run among others, whose `hypervolume` is a share of the box that all of the same problem span."""
    asked = "" if status["num_trials"] is None else f" of {status['num_trials']:,}"
    done = f"{status['num_trainings']:,}{asked} {judged_noun(status)}"
    volume = status["hypervolume"]
    beside = f", hypervolume {volume['share']:.4f} beside {', '.join(volume['others'])}" if volume else ""
    took = ", ".join(judge_words(one) for one in status["evaluators"] if one["networks"])
    line = f"{status['path']}: {status['state']}, {done}, {status['front']} on the front{beside}"
    return f"{line}; {took}" if took else line


def retrained(path: Path) -> list[dict[str, Any]]:
    """The long trainings of a run, or of all in a folder, see `retrainings.listed`. Raises UserError for no folder."""
    found = {folder: read_retrainings(folder) for folder in retrained_folders(path).values()}
    return [row for folder, ones in found.items() if ones for row in listed(RunReader(folder).refresh(), ones)]


def retrained_text(rows: list[dict[str, Any]], width: int = 120) -> str:
    """The same as a table."""
    if not rows:
        return "no network was trained at length yet; nas retrain RUN --key KEY does it"
    accuracy, latency = METRICS["top1"].text, METRICS["latency_ms"].text
    head = ["run", "trial", "key", "name", "recipe", "data", "epochs", "top-1\n%", "best\n%", "proxy\n%", "latency\nms"]
    body = [
        [
            row["run"],
            "" if row["number"] is None else str(row["number"]),
            row["key"],
            row["name"],
            row["recipe"],
            row["dataset"],
            f"{row['epochs'] or 0:.0f}" + ("" if row["done"] or not row["asked"] else f" of {row['asked']:.0f}"),
            accuracy(row["top1"]),
            accuracy(row["best_top1"]),
            accuracy(row["proxy_top1"]),
            latency(row["latency_ms"]),
            time.strftime("%F %H:%M", time.localtime(row["changed"])),
        ]
        for row in rows
    ]
    return "\n".join(table([*head, "changed"], body, width))
