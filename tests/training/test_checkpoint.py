"""Checkpoints: whole or absent, verified, the newest valid of two, nothing unpickled but data."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import random
import subprocess
import time
from pathlib import Path

import pytest
import torch

from helpers import processes
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.result import save_weights


def state(number: int) -> dict:
    values = torch.arange(2000, dtype=torch.float32) + number
    return {"number": number, "weights": {"w": values.reshape(10, 200)}, "curve": [{"epoch": 1, "top1": 0.5}]}


def test_round_trip_keeps_the_last_two(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None
    for number in range(1, 5):
        save_checkpoint(tmp_path, state(number))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None and loaded["number"] == 4 and loaded["curve"] == state(4)["curve"]
    assert torch.equal(loaded["weights"]["w"], state(4)["weights"]["w"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000003.json",
        "00000003.pt",
        "00000004.json",
        "00000004.pt",
    ]


def test_every_bit_flip_and_truncation_falls_back(tmp_path, caplog):
    save_checkpoint(tmp_path, state(1))
    newest = save_checkpoint(tmp_path, state(2))
    whole = newest.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        newest.write_bytes(damaged)
        assert load_checkpoint(tmp_path)["number"] == 1  # type: ignore[index]
    for _ in range(50):
        newest.write_bytes(whole[: rng.randrange(len(whole))])
        assert load_checkpoint(tmp_path)["number"] == 1  # type: ignore[index]
    assert caplog.text.count("damaged checkpoint") == 200 and str(newest) in caplog.text
    newest.write_bytes(whole)
    assert load_checkpoint(tmp_path)["number"] == 2  # type: ignore[index]


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"sha256": 3}', "\x00"])
def test_a_damaged_manifest_falls_back(tmp_path, manifest):
    save_checkpoint(tmp_path, state(1))
    newest = save_checkpoint(tmp_path, state(2))
    newest.with_suffix(".json").write_text(manifest)
    assert load_checkpoint(tmp_path)["number"] == 1  # type: ignore[index]
    save_checkpoint(tmp_path, state(3))
    assert load_checkpoint(tmp_path)["number"] == 3  # type: ignore[index]


def test_what_a_crash_leaves_is_not_used(tmp_path):
    save_checkpoint(tmp_path, state(1))
    (tmp_path / "00000002.pt.partial").write_bytes(b"half")
    (tmp_path / "00000002.pt").write_bytes(b"no manifest yet")
    assert load_checkpoint(tmp_path)["number"] == 1  # type: ignore[index]
    save_checkpoint(tmp_path, state(2))
    assert load_checkpoint(tmp_path)["number"] == 2  # type: ignore[index]


def test_all_damaged_is_none(tmp_path):
    for number in (1, 2):
        save_checkpoint(tmp_path, state(number)).write_bytes(b"")
    assert load_checkpoint(tmp_path) is None


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    save_checkpoint(tmp_path / "c", {"harmful": Harmful(tmp_path / "ran")})
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "ran").exists()


def write_for_ever(folder: Path, log: Path) -> None:
    number = 0
    while True:
        number += 1
        save_checkpoint(folder, {"number": number, "values": torch.full((300_000,), float(number))})
        with log.open("a") as file:
            file.write(f"{number}\n")


def test_kills_while_writing(tmp_path):
    """After a SIGKILL at any moment the checkpoint is at least the last one reported as saved, and whole."""
    for life in range(6):
        folder, log = tmp_path / str(life), tmp_path / f"{life}.log"
        writer = processes.start(write_for_ever, folder, log)
        while not log.exists():
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(0.05 + 0.007 * life)
        processes.kill(writer)
        loaded = load_checkpoint(folder)
        assert loaded is not None and loaded["number"] >= int(log.read_text().split("\n")[-2])
        assert (loaded["values"] == loaded["number"]).all()
        save_checkpoint(folder, {"number": 0})
        assert load_checkpoint(folder) == {"number": 0}
        assert len(list(folder.glob("*.json"))) == 2


def save_on_a_full_disk(folder: Path) -> None:
    """For a process of its own, with a file system of 64 KB."""
    assert ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0  # CLONE_NEWNS: nobody else sees the mount
    for command in ("mount --make-rprivate /", f"mount -t tmpfs -o size=64k tmpfs {folder}"):
        subprocess.run(command.split(), check=True)
    save_weights(torch.nn.Linear(8, 8), folder / "model.safetensors")
    before = (folder / "model.safetensors").read_bytes()
    try:
        save_weights(torch.nn.Linear(200, 200), folder / "model.safetensors")
        said = "nothing"
    except OSError as error:
        said = errno.errorcode[error.errno or 0]
    whole = (folder / "model.safetensors").read_bytes() == before
    (folder.parent / "said").write_text(f"{said} {whole} {len(list(folder.iterdir()))}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_weights_that_a_full_disk_does_not_take_leave_those_before(tmp_path):
    (tmp_path / "disk").mkdir()
    processes.finish(processes.start(save_on_a_full_disk, tmp_path / "disk", daemon=False))
    assert (tmp_path / "said").read_text() == "ENOSPC True 1"
