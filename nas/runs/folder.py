"""The folder of a run: creates it, finds it by name, checks that a resumed search fits it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.extensions import keep, kept, sources
from nas.base.files import write_atomically
from nas.base.machine import describe_machine
from nas.base.passwords import hidden, without_password
from nas.config.own import own_names
from nas.config.reading import dump, load, load_experiment, with_absolute_paths
from nas.config.sections import RUN_NAME, ExperimentConfig
from nas.runs.record import scan_records
from nas.space.search_space import SearchSpace

RESULTS = Path("results")
LONGER = "longer"
"""Folder of a run with one for each longer training of its networks, laid out as that of a run is."""
CHOICES = "choices.json"
"""The forms of kernels that a run was begun with."""
LATENCY_TABLE = "latency_table.json"
"""The milliseconds of parts of networks that its sampler began with, if it had any."""
SUPERNET = "supernet"
"""Folder of a run with the supernet that its evaluator trained, if it has one."""
LATENCY_TABLES = "latency"
"""Folder of the shared cache with such tables."""
MAY_CHANGE = ("search.num_trials", "search.replicates", "search.storage", "search.log", "resources", "retrain")
# all that a search leaves; a name with a dot before and letters behind is a file that was being written
FRAME = r"experiment\.yaml|resolved\.yaml|environment\.json|choices\.json|latency_table\.json"
SEARCHED = re.compile(
    rf"{FRAME}|\.({FRAME})\.\w+|driver\.lock|study\.db(-\w+)?|trials|checkpoints|locks|ray|code|proxy|supernet|tensorboard|wandb|mlflow-run"
)
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
    runs = Path(run_dir).resolve().parent
    return (runs.parent.parent if runs.name == LONGER else runs) / ".cache"


def proxy_folder(run_dir: Path, key: str) -> Path:
    """Where the weights lie with which the search's own training of a network of the front ended."""
    return run_dir / "proxy" / key


def given_storage(run_dir: Path) -> str | None:
    """`search.storage` of the file that a run was given, with its password, where it is the one that the run keeps."""
    kept = load(run_dir / "resolved.yaml").search.storage
    try:
        given = load(run_dir / "experiment.yaml").search.storage
    except ValueError:
        return kept
    return given if given and _kept_storage(given) == kept else kept


def resumed(run_dir: Path, overrides: Sequence[str] = ()) -> tuple[ExperimentConfig, SearchSpace]:
    """The experiment of a run that is gone on with, with its storage as it was given."""
    stored = given_storage(run_dir)
    storage = [f"search.storage={json.dumps(stored)}"] if stored else []
    return load_experiment(run_dir / "resolved.yaml", [*storage, *overrides])


def plan_resume(run_dir: Path, config: ExperimentConfig) -> Path:
    """The folder of a run that a search of `config` goes on with; RunError where more than its budget changed."""
    _check_unchanged(run_dir / "resolved.yaml", config)
    return run_dir if run_dir.name not in ("", "..") else run_dir.resolve()


def plan_run(name: str, config: ExperimentConfig, resume: bool, results: Path = RESULTS) -> Path:
    """The folder, in `results`, that a search of `config` may use under a name; nothing is written.

    A run that has trained nothing does not keep its name from another. Raises RunError where the name is taken or
    malformed, or where the file changed more than its budget.
    """
    if not RUN_NAME.match(name):
        raise RunError(f"--name {name!r}: allowed are up to 64 letters, digits, '.', '_' and '-', the first no sign")
    run_dir = results / name
    resolved = run_dir / "resolved.yaml"
    if resolved.exists():
        if resume:
            _check_unchanged(resolved, config)
        elif has_trained(run_dir):
            raise RunError(
                f"run {name!r} exists in {run_dir}; go on with it: nas search --resume {shlex.quote(str(run_dir))}; or "
                "choose another --name"
            )
    elif run_dir.exists() and has_trained(run_dir):
        raise RunError(f"{run_dir} exists and is no run folder; choose another --name")
    elif resume:
        raise RunError(f"--resume: there is no run {name!r} in {results}/ yet; leave --resume out to start it")
    return run_dir


def has_trained(run_dir: Path) -> bool:
    """Whether a folder has anything that is worth keeping: a training, finished or begun, or what no search leaves."""
    if any(not SEARCHED.fullmatch(path.name) for path in run_dir.iterdir()):
        return True
    checkpoints = run_dir / "checkpoints"
    if (
        any((run_dir / SUPERNET).glob("*"))
        or any(checkpoints.glob("*/training"))
        or any(checkpoints.glob("*/waiting.json"))
    ):
        return True
    records, unreadable = scan_records(run_dir)
    return bool(unreadable) or any(record.state != "rejected" for record in records)


@contextmanager
def begun_run(run_dir: Path, source: Path, config: ExperimentConfig, resume: bool) -> Iterator[None]:
    """Within the run's lock: a run that is begun, or gone on with, by `write_run`.

    What an earlier start left, in which nothing was trained, is replaced. Where the start is refused, nothing stays of
    a run that it made.
    """
    if not resume:
        if has_trained(run_dir):  # by a driver that came first since the run was planned
            raise RunError(f"{run_dir} has trials by now; go on with --resume, or choose another --name")
        _clear(run_dir)
    write_run(run_dir, source, config)
    try:
        yield
    except UserError:
        if not resume and not has_trained(run_dir):
            _clear(run_dir)
            (run_dir / "driver.lock").unlink()
            run_dir.rmdir()
        raise


def write_run(run_dir: Path, source: Path, config: ExperimentConfig) -> None:
    """Write what a run consists of before its first trial: the file as given and resolved, the environment.

    A password of `search.storage` is in the file as given alone, which then is for the eyes of its owner.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / "resolved.yaml").exists():
        given = source.read_text(encoding="utf-8")
        write_atomically(run_dir / "experiment.yaml", given, 0o644 if given == hidden(given) else 0o600)
    _keep_code(run_dir, config)
    identity = {"id": run_id(run_dir) or uuid.uuid4().hex}
    write_atomically(run_dir / "environment.json", json.dumps(environment(config) | identity, indent=1))
    write_atomically(run_dir / "resolved.yaml", dump(_without_password(config)))  # last: it marks the folder as a run


def _keep_code(run_dir: Path, config: ExperimentConfig) -> None:
    """Keep the files of the modules that the experiment names, for workers, for going on and for copies of the run.

    Raises RunError where a run goes on with other ones.
    """
    files, before = sources(own_names(config)), kept(run_dir)
    changed = [name for name, text in files.items() if before.get(name, text) != text]
    if changed:
        raise RunError(
            f"--resume: {', '.join(changed)} differs from what the run keeps in {run_dir / 'code'}; go on with that: "
            f"nas search --resume {shlex.quote(str(run_dir))}"
        )
    keep(run_dir, files)


def run_id(run_dir: Path) -> str | None:
    """What tells a run from others of its name, whatever it is called and wherever it lies; a copy has the same."""
    try:
        return json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def environment(config: ExperimentConfig) -> dict[str, Any]:
    """Where the run takes place: versions, machine, revision of a git checkout, seed."""
    return describe_machine(PACKAGES) | {
        "git": _git_revision(),
        "seed": config.search.seed,
        "argv": [hidden(argument) for argument in sys.argv],
        "time": time.time(),
    }


def _clear(run_dir: Path) -> None:
    """Remove all that a search left but its lock, which its driver holds."""
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "driver.lock":
            path.unlink()


def _without_password(config: ExperimentConfig) -> ExperimentConfig:
    if config.search.storage is None:
        return config
    search = config.search.model_copy(update={"storage": _kept_storage(config.search.storage)})
    return config.model_copy(update={"search": search})


def _kept_storage(url: str) -> str:
    """A storage as a run keeps it: without its password, and an SQLite file by a path that is right from anywhere."""
    file = url.removeprefix("sqlite:///")
    if file not in (url, "", ":memory:") and not file.startswith("file:"):
        return f"sqlite:///{Path(file).absolute()}"
    return without_password(url)


def _check_unchanged(resolved: Path, config: ExperimentConfig) -> None:
    before, now = (flat(with_absolute_paths(some).model_dump(mode="json")) for some in (load(resolved), config))
    changed = [
        f"{path}: {before.get(path, 'absent')} -> {now.get(path, 'absent')}"
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path) and not path.startswith(MAY_CHANGE)
    ]
    if changed:
        raise RunError(
            f"--resume: the file differs from the run's in {'; '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; only {', '.join(MAY_CHANGE)} may change"
        )


def flat(data: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict, with steps joined by "."; empty ones stay."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None or not data:
        return {path: data}
    result = {}
    for name, value in items:
        result |= flat(value, f"{path}.{name}" if path else str(name))
    return result


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        said = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
        return said.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
