"""The folder of a run: made once, found by name, checked before a search goes on in it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.config import sections as configuration
from nas.config.sections import RUN_NAME, ExperimentConfig

RESULTS = Path("results")
MAY_CHANGE = ("search.num_trials", "search.storage", "resources", "retrain")
BEGUN = ("experiment.yaml", "environment.json", ".")  # all that a start that was cut off leaves
PACKAGES = ("opnas", "torch", "torchvision", "timm", "triton", "ray", "optuna", "numpy", "pydantic")


class RunError(UserError):
    """A run that is not there, is there already, or does not fit."""


def find_run(run: str) -> Path:
    """The folder of a run by its path, or by its name under results/."""
    for folder in (Path(run), RESULTS / run):
        if (folder / "resolved.yaml").is_file():
            return folder
    runs = sorted(path.parent.name for path in RESULTS.glob("*/resolved.yaml"))
    there = f"results/ has {', '.join(runs)}" if runs else "results/ has no runs"
    raise RunError(f"no run {run!r}: neither a run folder nor the name of one; {there}")


def shared_cache(run_dir: str | Path) -> Path:
    """Where decoded images and downloaded data are kept, for all runs in the folder that `run_dir` lies in."""
    return Path(run_dir).resolve().parent / ".cache"


def plan_run(name: str, config: ExperimentConfig, resume: bool) -> Path:
    """The folder that a search of `config` may use under a name; nothing is written.

    Raises RunError where the name is taken or malformed, or where the file changed more than its budget.
    """
    if not RUN_NAME.match(name):
        raise RunError(f"--name {name!r}: allowed are up to 64 letters, digits, '.', '_' and '-', the first no sign")
    run_dir = RESULTS / name
    resolved = run_dir / "resolved.yaml"
    if resolved.exists():
        if not resume:
            raise RunError(f"run {name!r} exists in {run_dir}; go on with --resume, or choose another --name")
        _check_unchanged(resolved, config)
    elif run_dir.exists() and any(not path.name.startswith(BEGUN) for path in run_dir.iterdir()):
        raise RunError(f"{run_dir} exists and is no run folder; choose another --name")
    elif resume:
        raise RunError(f"--resume: there is no run {name!r} in {RESULTS}/ yet; leave --resume out to start it")
    return run_dir


def write_run(run_dir: Path, source: Path, config: ExperimentConfig) -> None:
    """Write what a run consists of before its first trial: the file as given and resolved, the environment."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / "resolved.yaml").exists():
        write_atomically(run_dir / "experiment.yaml", source.read_text())
    write_atomically(run_dir / "environment.json", json.dumps(environment(config), indent=1))
    write_atomically(run_dir / "resolved.yaml", configuration.dump(config))  # last: it marks the folder as a run


def environment(config: ExperimentConfig) -> dict[str, Any]:
    """Where the run takes place: versions, machine, revision of a git checkout, seed."""
    return {
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": _processor(),
        "git": _git_revision(),
        "seed": config.search.seed,
        "argv": sys.argv,
        "time": time.time(),
    }


def _check_unchanged(resolved: Path, config: ExperimentConfig) -> None:
    before = _flat(configuration.load(resolved).model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    changed = [
        f"{place}: {before.get(place, 'absent')} -> {now.get(place, 'absent')}"
        for place in sorted(before.keys() | now.keys())
        if before.get(place) != now.get(place) and not place.startswith(MAY_CHANGE)
    ]
    if changed:
        raise RunError(
            f"--resume: the file differs from the run's in {'; '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; only {', '.join(MAY_CHANGE)} may change"
        )


def _flat(data: Any, place: str = "") -> dict[str, Any]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None or not data:
        return {place: data}
    result = {}
    for name, value in items:
        result |= _flat(value, f"{place}.{name}" if place else str(name))
    return result


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
