"""Loaders that die or hang, small shared memory, signals: a retraining says so in one message, and ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch

from helpers import processes
from helpers.retrainings import write_digits
from nas.config.sections import RetrainConfig
from nas.data.loading import workers_that_fit
from nas.data.streaming import StreamingSource
from nas.space import specs
from nas.space.genotype import Genotype

NETWORK = Genotype(stem=specs.Stem(kind="small", width=8), stages=((specs.Basic(width=8, operator=specs.Conv()),),))
OPTIONS = ("epochs=500", "resolution=16", "batch_size=8", "amp=off")


@pytest.fixture
def images(tmp_path) -> Path:
    return write_digits(tmp_path / "images", per_class=12, side=16)


def block(images: Path) -> None:
    """Make an image a file that answers nobody who opens it."""
    path = images / "train" / "3" / "0.png"
    path.unlink()
    os.mkfifo(path)


def retrain(folder: Path, images: Path, timeout: int) -> None:
    """`nas retrain` with one process that reads, whatever the machine has."""
    from nas.base import machine
    from nas.retrain import job

    job.num_cpus = lambda: 2  # pyright: ignore[reportAttributeAccessIssue]
    assert machine.num_cpus() >= 1
    settings = [part for option in (*OPTIONS, f"loader_timeout={timeout}") for part in ("--set", f"retrain.{option}")]
    processes.command(folder, "retrain", "--genotype", "network.json", "--data", str(images), *settings)


def started(folder: Path, images: Path, timeout: int = 600) -> tuple[BaseProcess, list[psutil.Process]]:
    """A training that has begun, and the processes that read its images."""
    (folder / "network.json").write_text(NETWORK.to_json(), encoding="utf-8")
    process = processes.start(retrain, folder, images, timeout, daemon=False)
    checkpoints = folder / "results/retrained/retrain" / NETWORK.key / "checkpoints"
    while not list(checkpoints.glob("*.json")):
        assert process.is_alive(), (folder / "err").read_text()
        time.sleep(0.02)
    parent = psutil.Process(process.pid)
    while len(parent.children()) < 2:  # of the images that evaluate, and of those that train
        time.sleep(0.02)
    time.sleep(0.5)
    return process, parent.children()


def test_a_reader_that_is_killed_is_one_message(images, tmp_path):
    process, readers = started(tmp_path, images)
    readers[-1].kill()
    process.join(60)
    said = (tmp_path / "err").read_text()
    assert process.exitcode == 1 and "Traceback" not in said
    assert "a process that reads images died" in said and said.rstrip().endswith("go on with --resume")
    assert "100 training and 20 evaluation images of 10 classes at 16 pixels" in said
    assert "500 epochs of 13 steps, 8 images each, adamw at 0.001, on 1 x " in said


def test_readers_that_hang_end_the_training(images, tmp_path):
    process, readers = started(tmp_path, images, 3)
    block(images)
    process.join(60)
    said = (tmp_path / "err").read_text()
    assert process.exitcode == 1 and "no images for 3.0 seconds (retrain.loader_timeout)" in said
    assert "Traceback" not in said and not any(reader.is_running() for reader in readers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_acts_at_once(images, tmp_path, number):
    """The first waits for the end of a step, which never comes as a reader hangs."""
    process, readers = started(tmp_path, images)
    assert process.pid is not None
    block(images)
    time.sleep(1)
    os.kill(process.pid, number)
    while "once more stops at once" not in (tmp_path / "err").read_text():
        time.sleep(0.02)
    os.kill(process.pid, number)
    begin = time.monotonic()
    process.join(30)
    assert process.exitcode == -number and time.monotonic() - begin < 2.5
    psutil.wait_procs(readers, timeout=5)
    assert not any(reader.is_running() for reader in readers)


def look_into_small_memory(folder: Path, images: Path) -> None:
    """For a process of its own, with 256 KB of shared memory in a file system of its own."""
    assert ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0  # CLONE_NEWNS: nobody else sees the mount
    for command in ("mount --make-rprivate /", "mount -t tmpfs -o size=256k tmpfs /dev/shm"):
        subprocess.run(command.split(), check=True)
    config = RetrainConfig(resolution=64, batch_size=20)
    source = StreamingSource(images, config, seed=0, device="cpu", num_workers=4)
    count = sum(len(labels) for _, labels in source.train_batches(0))
    (folder / "said").write_text(f"{count} {source.notes}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_small_shared_memory_is_said_and_enough(images, tmp_path):
    processes.finish(processes.start(look_into_small_memory, tmp_path, images, daemon=False))
    count, said = (tmp_path / "said").read_text().split(maxsplit=1)
    assert count == "100" and "/dev/shm has 0 MB free, 4 processes that read images need 2 MB: 0 read" in said


def test_what_fits_into_shared_memory():
    assert workers_that_fit(0, 1, 1) == (0, []) and workers_that_fit(2, 1, 1) == (2, [])
    number, said = workers_that_fit(8, 10**15, 2)
    assert number == 0 and "8 processes that read images need" in said[0]
    assert torch.get_num_threads() >= 1
