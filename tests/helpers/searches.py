"""Small real searches for the tests: an experiment on the digits that takes seconds, run by the `nas` command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.config.reading import load
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records

EXPERIMENT = """\
space:
  stem: {kind: small, width: 8}
  operators:
    conv3: {op: conv}
    inv3: {op: involution, kernel_size: 3}
    od3: {op: odconv, num_kernels: 2}
    sc2: {op: scconv, pooling: 2}
    gn2: {op: gnconv, order: 2}
  layer_scale: 1.0
  stages:
    - {block: [basic, bottleneck], depth: [1, 2], width: [8, 16]}
    - {block: [basic, gated], depth: 1, width: [16, 32]}
objectives:
  - {name: top1}
  - {name: num_params}
search: {sampler: nsga2, num_trials: 6, seed: 3}
proxy: {dataset: digits, epochs: 2, batch_size: 32, resolution: 8, max_images_per_class: 20}
resources: {max_concurrent: 2}
"""


def write_experiment(folder: Path, name: str = "tiny") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(EXPERIMENT)
    return path


def nas(folder: Path, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder and wait for it."""
    command = [sys.executable, "-m", "nas.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment())
    if check and done.returncode:
        raise AssertionError(f"nas {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def ended(folder: Path, monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[object, str, str]:
    """Exit code (0 where the command returned), output and errors of the command in this process."""
    from nas.cli import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["nas", *arguments])
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@contextmanager
def running(folder: Path, *arguments: str, heeds_sigint: bool = True) -> Iterator[subprocess.Popen[str]]:
    """The command in the background, in a process group of its own, killed at the end if it still runs. It heeds SIGINT
    also where the tests run in the background of a script, whose shell has all that it starts ignore it; or not, as
    what a script starts with `&`. SIGHUP it heeds also where the tests run under nohup."""
    command = [sys.executable, "-m", "nas.cli", *arguments]
    log = (folder / "driver.log").open("a")
    handler = signal.default_int_handler if heeds_sigint else signal.SIG_IGN  # what is ignored here is ignored there
    before = signal.signal(signal.SIGINT, handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=log, text=True, env=environment(), start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGHUP, hang_up)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        log.close()


def environment() -> dict[str, str]:
    """Ray's workers, which else give way to all other processes, get their share beside other tests."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "RAY_worker_niceness": "0"}


def kill_campaign(
    folder: Path,
    kills: int,
    num_trials: int,
    epochs: int = 100,
    within: float = 20,
    seed: int = 0,
    places: int = 2,
    more: int = 0,
    early: int = 4,
) -> dict[str, Any]:
    """Search with the driver SIGKILLed at random moments, then to the end with a budget raised by `more` trainings;
    returns what became of the trials.

    A kill falls `within` seconds after this life's first training began, every `early`-th anywhere in the start-up.
    `struck` counts the trainings that ran when a kill fell, by the starts that the trials themselves note;
    `from_checkpoint` those of them that had one to go on from.
    """
    draw = random.Random(seed)
    experiment = write_experiment(folder)
    checkpoints = folder / "results/tiny/checkpoints"
    sizes = sizes_of(num_trials, epochs, places)
    killed = struck = from_checkpoint = 0
    while killed < kills:
        resume = ("--resume",) if (folder / "results/tiny/resolved.yaml").exists() else ()
        with running(folder, "search", str(experiment), *sizes, *resume) as driver:
            before = training(checkpoints).keys()
            if killed % early == early - 1:
                time.sleep(draw.uniform(1, 10))
            else:
                while driver.poll() is None and not training(checkpoints).keys() - before:
                    time.sleep(0.1)
                time.sleep(draw.uniform(0, within))
            if driver.poll() is not None:  # it came to its end before its moment
                assert driver.returncode == 0, (folder / "driver.log").read_text()[-3000:]
                break
            now = {process: trial for process, trial in training(checkpoints).items() if process not in before}
            struck += len(now)
            from_checkpoint += sum((trial / "training").exists() for trial in now.values())
            os.kill(driver.pid, signal.SIGKILL)
            killed += 1
    nas(folder, "search", str(experiment), *sizes_of(num_trials + more, epochs, places), "--resume", timeout=900)
    return {
        "kills": killed,
        "struck": struck,
        "from_checkpoint": from_checkpoint,
        **outcome(folder / "results" / "tiny"),
    }


def sizes_of(num_trials: int, epochs: int, places: int) -> list[str]:
    settings = {"search.num_trials": num_trials, "proxy.epochs": epochs, "resources.max_concurrent": places}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def training(checkpoints: Path) -> dict[int, Path]:
    """The processes in which a trial of this run trains and its folder, by the starts that the trials note."""
    notes = {path.parent: path.read_text().split() for path in checkpoints.glob("*/attempts")}
    return {int(words[-1]): trial for trial, words in notes.items() if words and Path(f"/proc/{words[-1]}").exists()}


def worker_kill_campaign(folder: Path, kills: int, num_trials: int, seed: int = 0) -> dict[str, Any]:
    """Search with a trial's process SIGKILLed at random moments; returns what became of the trials."""
    draw = random.Random(seed)
    experiment = write_experiment(folder)
    sizes = ("--set", f"search.num_trials={num_trials}", "--set", "proxy.epochs=60")
    checkpoints, killed = folder / "results/tiny/checkpoints", 0
    with running(folder, "search", str(experiment), *sizes) as driver:
        while killed < kills and driver.poll() is None:
            time.sleep(draw.uniform(0.5, 6))
            if alive := training(checkpoints):
                os.kill(draw.choice(list(alive)), signal.SIGKILL)
                killed += 1
        assert driver.wait(900) == 0, (folder / "driver.log").read_text()[-3000:]
    return {"kills": killed, **outcome(folder / "results" / "tiny")}


def outcome(run_dir: Path) -> dict[str, Any]:
    """Trials of a finished run: by state in the records and in the study, repeated keys and numbers; and how many
    networks are on the front without weights, or not on it with weights."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    records, objectives = read_records(run_dir), load(run_dir / "resolved.yaml").objectives
    study = optuna.load_study(study_name=run_dir.name, storage=f"sqlite:///{run_dir / 'study.db'}")
    trained = [record for record in records if record.state != "rejected"]
    kept = {path.parent.name for path in run_dir.glob("proxy/*/config.json")}
    return {
        "records": dict(Counter(record.state for record in records)),
        "study": dict(Counter(trial.state.name for trial in study.trials)),
        "trained": len(trained),
        "repeated_keys": len(trained) - len({record.key for record in trained}),
        "repeated_numbers": len(records) - len({record.number for record in records}),
        "without_record": len(study.trials) - len(records),
        "attempts": sum(record.attempts for record in trained),
        "weights_not_of_the_front": len(kept ^ {record.key for record in front(records, objectives)}),
    }


def results(run_dir: Path) -> list[TrialRecord]:
    return sorted(read_records(run_dir), key=lambda record: record.number)


def report(folder: Path, run: str) -> dict[str, Any]:
    return json.loads(nas(folder, "report", run, "--json").stdout)
