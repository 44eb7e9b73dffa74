"""Launching: two processes that train together, one of them killed, all of them stopped; the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers import processes
from helpers.searches import environment
from helpers.trainings import weights_of
from nas.retrain.supervisor import DIVERGED, INTERRUPTED, free_port, supervise
from nas.space import specs
from nas.space.genotype import Genotype

GENOTYPE = Genotype(
    stem=specs.Stem(kind="small", width=8), stages=((specs.Basic(width=8, operator=specs.Conv(kernel_size=3)),),)
)
EPOCHS = 8
SETTINGS = (
    "dataset=digits",
    f"epochs={EPOCHS}",
    "batch_size=64",
    "resolution=8",
    "augment=shift",
    "warmup_epochs=1",
    "ema=0.9",
)


def retraining(folder: Path, *more: str) -> list[str]:
    """The command that trains a small network on the digits, in that folder."""
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_text(GENOTYPE.to_json())
    settings = [part for setting in SETTINGS for part in ("--set", f"retrain.{setting}")]
    return ["retrain", "--genotype", "network.json", "--json", *settings, *more]


def start(folder: Path, *more: str) -> subprocess.Popen:
    """`nas retrain` in two processes."""
    command = [sys.executable, "-m", "nas.cli", *retraining(folder, "--devices", "2", *more)]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def results(folder: Path) -> Path:
    return folder / "results/retrained/retrain" / GENOTYPE.key


def wait_for(condition, process: subprocess.Popen, seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The weights of an undisturbed training, by two processes that are launched as torchrun does."""
    folder = tmp_path_factory.mktemp("whole")
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    team = [partial(processes.command, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in (0, 1)]
    for process in [processes.start(member, folder, *retraining(folder), daemon=False) for member in team]:
        processes.finish(process, 240)
    assert json.loads((folder / "out0").read_text())["epochs"] == EPOCHS
    assert f"epoch {EPOCHS}/{EPOCHS}" in (folder / "err0").read_text()
    return weights_of(load_file(results(folder) / "model.safetensors"))


def test_killed_processes_are_replaced_and_a_stopped_training_goes_on_under_ray_train(whole, tmp_path):
    """SIGKILL of one of two: all start anew, from the last checkpoint. SIGTERM of the command: both save and end.
    --resume with Ray Train goes on with that, loses one of its two workers, and ends with the same bits."""
    metrics = results(tmp_path) / "metrics.csv"
    process = start(tmp_path)
    wait_for(metrics.exists, process)
    killed = workers(process)
    killed[1].kill()
    wait_for(lambda: len(set(workers(process)) - set(killed)) == 2, process)
    wait_for(lambda: len(metrics.read_text().splitlines()) > 2, process)
    children = workers(process)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "everything is saved, go on with --resume" in err, err
    assert "signal SIGKILL; starting all anew (1 of 3)" in err
    assert time.monotonic() - begin < 10 and not any(child.is_running() for child in children)
    done = len(metrics.read_text().splitlines()) - 1
    before = holder(tmp_path)
    process = start(tmp_path, "--resume", "--ray-address", "local")
    wait_for(lambda: holder(tmp_path) not in (0, before), process, 300)
    wait_for(lambda: len(metrics.read_text().splitlines()) - 1 > done, process, 300)
    struck = holder(tmp_path)
    os.kill(struck, signal.SIGKILL)
    wait_for(lambda: holder(tmp_path) not in (0, struck), process, 300)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and f"epoch {EPOCHS}" in err, err
    assert json.loads(out)["epochs"] == EPOCHS and not (results(tmp_path) / "ray").exists()
    assert weights_of(load_file(results(tmp_path) / "model.safetensors")) == whole


def holder(folder: Path) -> int:
    """The process that trains as the second of two; 0 between two of them."""
    text = (results(folder) / "lock-1").read_text()
    return json.loads(text)["pid"] if text.endswith("}") else 0


@pytest.mark.parametrize(
    "program, code, said",
    [
        ("pass", 0, 0),
        (f"raise SystemExit({DIVERGED})", DIVERGED, 0),
        ("import os; os.kill(os.getpid(), 9)", 1, 3),
        ("import os, time; os.environ['RANK'] == '0' and exit(7); time.sleep(60)", 1, 3),
    ],
)
def test_ends(program, code, said):
    """What starting anew would not change ends at once; anything else is tried again, twice here."""
    messages: list[str] = []
    begin = time.monotonic()
    found = supervise([sys.executable, "-c", program], 2, progress=lambda: 0, max_restarts=2, say=messages.append)
    assert found == code and len(messages) == said and time.monotonic() - begin < 50


def test_a_stop_before_the_processes_listen_ends_them():
    messages: list[str] = []
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    assert supervise(command, 2, progress=lambda: 0, say=messages.append) == INTERRUPTED and not messages


def test_progress_gives_new_chances(tmp_path):
    """With a new checkpoint in each life, more lives than without."""
    program = f"import os; open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w'); os._exit(9)"
    messages: list[str] = []
    lives = iter(range(4))
    command = [sys.executable, "-c", program]
    supervise(command, 1, progress=lambda: next(lives, 3), max_restarts=1, say=messages.append)
    assert len(os.listdir(tmp_path)) > 2


def test_an_estimate_measures_steps_and_trains_nothing(tmp_path):
    """How near it comes is measured by scripts/, not by a timed test."""
    from nas.retrain.estimate import estimate
    from nas.retrain.job import plan_job

    settings = [f"retrain.{setting}" for setting in SETTINGS]
    threads = torch.get_num_threads()
    job = plan_job(tmp_path, "", None, settings, genotype=GENOTYPE)
    found = estimate(job, seconds=1.0)
    torch.set_num_threads(threads)
    assert found["num_steps"] >= 2 and 0 <= found["wait_share"] < 1
    steps = -(-found["images_per_second"] * found["step_seconds"] // 1)
    assert steps <= 64 and found["hours"] * 3600 > EPOCHS * found["step_seconds"]
    assert not list(tmp_path.rglob("*.safetensors"))
