"""Locks where the file system is NFS or Lustre: a preloaded flock() does what these answer, the rest is real."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.run_samples import make_run
from helpers.searches import environment, write_experiment

NO_LOCKS = ["ENOLCK", "ENOSYS"]
HOLDER = "from nas.base.locks import RunLock\nwith RunLock(Path('runs/a/driver.lock')):\n    print('held')\n    input()"
LOOK = "from nas.base.locks import is_locked\nprint(is_locked(Path('runs/a/driver.lock')))"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: no cc, gcc or clang on PATH")
    built = tmp_path_factory.mktemp("library") / "flock.so"
    source = Path(__file__).parents[1] / "helpers/flock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    return built


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a run of a driver that was killed: its lock file is there, and says who it was."""
    make_run(tmp_path / "runs/a", 10)
    (tmp_path / "runs/a/driver.lock").write_text(json.dumps({"pid": 1, "host": "node7", "since": 0}))
    return tmp_path


def process(folder: Path, library: Path, kind: str, *arguments: str) -> subprocess.Popen[str]:
    """Python on a file system of that kind: nfs, or the name of the error that its flock() has."""
    preload = {"LD_PRELOAD": str(library), "FILE_SYSTEM": kind if kind == "nfs" else str(getattr(errno, kind))}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment() | preload, text=True, **pipes)


def done(*arguments) -> tuple[int, str, str]:
    with process(*arguments) as ended:
        output, errors = ended.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return ended.returncode, output, errors


def program(text: str) -> tuple[str, str]:
    return "-c", f"from pathlib import Path\n{text}"


def test_a_driver_on_nfs_is_seen_and_keeps_a_second_out(folder, library):
    assert done(folder, library, "nfs", *program(LOOK))[1] == "False\n"
    with process(folder, library, "nfs", *program(HOLDER)) as driver:
        assert driver.stdout and driver.stdout.readline() == "held\n"
        assert done(folder, library, "nfs", *program(LOOK))[1] == "True\n"
        code, said, _ = done(folder, library, "nfs", "-m", "nas.cli", "status", "runs/a")
        assert code == 0 and f"searched by process {driver.pid} on " in said
        refused = process(folder, library, "nfs", *program(HOLDER)).communicate(timeout=60)
        assert f"Locked: runs/a is in use by process {driver.pid} on " in refused[1]
        driver.kill()
    assert done(folder, library, "nfs", *program(LOOK))[1] == "False\n"


def test_reading_verbs_work_on_nfs(folder, library):
    (folder / "runs/a/driver.lock").chmod(0o444)
    for arguments in (["status", "runs/a"], ["report", "runs/a"], ["dashboard", "runs/a", "--export", "page.html"]):
        assert done(folder, library, "nfs", "-m", "nas.cli", *arguments)[0] == 0
    assert "a: interrupted" in done(folder, library, "nfs", "-m", "nas.cli", "status", "runs/a")[1]


def test_a_search_runs_to_its_end_on_nfs(folder, library):
    """Ray's workers too: the lock of the device, the images that runs share, the trials."""
    write_experiment(folder)
    sizes = ("--set", "search.num_trials=1", "--set", "proxy.epochs=1", "--set", "resources.max_concurrent=1")
    code, said, errors = done(folder, library, "nfs", "-m", "nas.cli", "search", "tiny.yaml", *sizes)
    assert code == 0 and "tiny: finished, 1 of 1 trainings (1 complete)" in said, errors


@pytest.mark.parametrize("kind", NO_LOCKS)
def test_without_locks_a_search_is_refused_and_reading_goes_on(folder, library, kind):
    write_experiment(folder)
    code, _, errors = done(folder, library, kind, "-m", "nas.cli", "search", "tiny.yaml")
    assert code == 2 and errors.startswith("nas: results/tiny/driver.lock: the file system keeps no locks ("), errors
    assert os.strerror(getattr(errno, kind)) in errors and "Lustre with -o flock" in errors
    assert not (folder / "results/tiny").exists()
    code, said, _ = done(folder, library, kind, "-m", "nas.cli", "status", "runs/a")
    assert code == 0 and "a: unknown" in said and "node7" not in said
    assert "whether a driver runs cannot be seen: the file system keeps no locks" in said
    for arguments in (["report", "runs/a"], ["dashboard", "runs/a", "--export", "page.html"]):
        assert done(folder, library, kind, "-m", "nas.cli", *arguments)[0] == 0


@pytest.mark.parametrize("kind", NO_LOCKS)
def test_a_lock_that_cannot_be_had_is_one_message(folder, library, kind):
    text = "from nas.base.locks import file_lock\nwith file_lock(Path('shared.lock')):\n    pass"
    with process(folder, library, kind, *program(text)) as ended:
        errors = ended.communicate(timeout=60)[1]
    assert "UserError: shared.lock: the file system keeps no locks (" in errors
