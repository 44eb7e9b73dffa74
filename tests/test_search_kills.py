"""The search under SIGKILL: of its driver, of its trials; and two drivers on one run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from searches import ended, kill_campaign, nas, outcome, results, running, sizes_of, write_experiment


def test_driver_killed_five_times(tmp_path):
    """Every training once, one more where the budget is raised at the last resume, and with one worker the same
    networks and metrics as of a search that nothing disturbed."""
    result = kill_campaign(tmp_path, kills=5, num_trials=5, epochs=10, within=4, places=1, more=1)
    assert result["kills"] >= 3 and result["struck"] >= 1, result
    assert result["trained"] == 6 and result["records"]["complete"] == 6, result
    assert result["repeated_keys"] == result["repeated_numbers"] == result["without_record"] == 0, result
    assert "RUNNING" not in result["study"] and result["study"]["COMPLETE"] == 6, result
    nas(tmp_path, "search", "tiny.yaml", *sizes_of(6, 10, 1), "--name", "whole")
    whole, cut = (results(tmp_path / "results" / name) for name in ("whole", "tiny"))
    assert [record.key for record in whole] == [record.key for record in cut]
    assert [record.objectives for record in whole] == [record.objectives for record in cut]
    assert [[row["train_loss"] for row in record.curve] for record in whole] == [
        [row["train_loss"] for row in record.curve] for record in cut
    ]


def test_a_second_driver_is_refused_and_told_by_whom(tmp_path, monkeypatch, capsys):
    experiment, sizes = str(write_experiment(tmp_path)), sizes_of(6, 200, 1)
    with running(tmp_path, "search", experiment, *sizes) as driver:
        wait_for(
            lambda: (tmp_path / "results/tiny/driver.lock").exists() and (tmp_path / "results/tiny/study.db").exists()
        )
        began = time.monotonic()
        code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", experiment, *sizes, "--resume")
        assert code == 2 and str(driver.pid) in errors, errors
        assert time.monotonic() - began < 30
        wait_for(lambda: any((tmp_path / "results/tiny/checkpoints").glob("*/attempts")))
        assert f"process {driver.pid}" in ended(tmp_path, monkeypatch, capsys, "status", "tiny")[1]
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130
    assert "interrupted" in ended(tmp_path, monkeypatch, capsys, "status", "tiny")[1]
    wait_for(lambda: not workers_of(tmp_path), 20)


def test_a_trial_whose_process_keeps_dying_fails_and_the_search_ends(tmp_path):
    experiment = str(write_experiment(tmp_path))
    attempts = tmp_path / "results/tiny/checkpoints/0/attempts"
    with running(tmp_path, "search", experiment, *sizes_of(2, 40, 1)) as driver:
        for kills in range(1, 4):
            wait_for(lambda kills=kills: attempts.exists() and len(attempts.read_text().splitlines()) == kills, 120)
            os.kill(int(attempts.read_text().splitlines()[-1].split()[-1]), signal.SIGKILL)
        assert driver.wait(240) == 0
    records = results(tmp_path / "results/tiny")
    assert [record.state for record in records] == ["failed", "complete"]
    assert "process died" in (records[0].error or "") and records[0].attempts == 3
    assert outcome(tmp_path / "results/tiny")["study"] == {"FAIL": 1, "COMPLETE": 1}


def workers_of(folder: Path) -> list[psutil.Process]:
    """Ray processes whose files lie in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "ray" in line and str(folder) in line:
            found.append(process)
    return found


def wait_for(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
