"""An attempt at a job by one process of several, and how it ended, left in a file for whoever launched it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.data.loading import LoadingFailed
from nas.retrain.job import Job, RetrainError, RetrainFailed
from nas.retrain.supervisor import DIVERGED, FAILED, INTERRUPTED, USAGE
from nas.retrain.worker import carry_out
from nas.training.loop import NonFiniteLoss, Stopped
from nas.training.process_group import Team

ENDS: dict[int, type[Exception]] = {
    USAGE: RetrainError,
    DIVERGED: NonFiniteLoss,
    FAILED: RetrainFailed,
    INTERRUPTED: Stopped,
}


def attempt(job: Job, team: Team, stop: Any = None) -> int:
    """Carry out a job as one process of a team; writes how that ended, and returns it as an exit code.

    What starting anew may mend, such as a lost connection or loader, is raised and not written.
    """
    folder = Path(job.folder)
    try:
        summary = carry_out(job, team, stop)
    except LoadingFailed:
        raise
    except (UserError, NonFiniteLoss, RetrainFailed, Stopped) as error:
        code = next((code for code, kind in ENDS.items() if isinstance(error, kind)), USAGE)
        write_atomically(folder / "error.json", json.dumps({"code": code, "reason": str(error)}))
        return code
    if team.leads:
        write_atomically(folder / "result.json", json.dumps(summary))
    return 0


def forget(job: Job) -> None:
    """Remove what earlier attempts left."""
    for name in ("result.json", "error.json"):
        (Path(job.folder) / name).unlink(missing_ok=True)


def has_failed(job: Job) -> bool:
    """Whether an attempt ended in a way that another one would not change."""
    return (Path(job.folder) / "error.json").exists()


def outcome(job: Job) -> dict[str, Any]:
    """The summary of a job that was carried out; raises what ended it."""
    folder = Path(job.folder)
    if has_failed(job):
        found = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        raise ENDS[found["code"]](found["reason"])
    if not (folder / "result.json").exists():
        raise RetrainFailed("its processes died again and again; their messages stand above")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))
