"""The search under SIGKILL: of its driver, of its trials; and two drivers on one run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import torch
from searches import ended, kill_campaign, nas, outcome, results, running, sizes_of, write_experiment

from nas.config.experiment import load_experiment
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import TrialPlace, TrialTask, run_trial


def test_driver_killed_five_times(tmp_path):
    """Every training once, one more where the budget is raised at the last resume, and with one worker the same
    networks and metrics as where nothing disturbs: asked for and trained here once more, one after the other."""
    result = kill_campaign(tmp_path, kills=5, num_trials=5, epochs=10, within=4, places=1, more=1, early=2)
    assert result["kills"] >= 3 and result["struck"] >= 1, result
    assert result["trained"] == 6 and result["records"]["complete"] == 6, result
    assert result["repeated_keys"] == result["repeated_numbers"] == result["without_record"] == 0, result
    assert "RUNNING" not in result["study"] and result["study"]["COMPLETE"] == 6, result
    config, space = load_experiment(tmp_path / "tiny.yaml", ["proxy.epochs=10"])
    study = Study(config, space, storage_url(config, tmp_path), "undisturbed")
    place = TrialPlace(config, tmp_path / "undisturbed", torch.device("cpu"))
    for record in results(tmp_path / "results/tiny"):
        proposal = study.ask()
        genotype = space.decode(proposal.params)
        assert (proposal.number, genotype.key) == (record.number, record.key)
        study.tell(record)
        if record.state == "complete":
            *_, last = run_trial(TrialTask(record.number, genotype, proposal.params, record.seed), place)
            assert last["record"].objectives == record.objectives
            assert [row["train_loss"] for row in last["record"].curve] == [row["train_loss"] for row in record.curve]


def test_a_trial_that_keeps_dying_fails_a_second_driver_is_refused_and_an_interrupt_ends_all(
    tmp_path, monkeypatch, capsys
):
    """One search: a second driver is told by whom it is refused; a trial whose process is killed as often as it starts
    fails; the next one is trained; SIGINT during the third leaves no process behind."""
    experiment, sizes = str(write_experiment(tmp_path)), [*sizes_of(6, 40, 1), "--set", "resources.max_retries=1"]
    checkpoints = tmp_path / "results/tiny/checkpoints"
    with running(tmp_path, "search", experiment, *sizes) as driver:
        wait_for((tmp_path / "results/tiny/study.db").exists)
        began = time.monotonic()
        code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", experiment, *sizes, "--resume")
        assert code == 2 and str(driver.pid) in errors and time.monotonic() - began < 30, errors
        attempts = checkpoints / "0/attempts"
        for kills in (1, 2):
            wait_for(lambda kills=kills: attempts.exists() and len(attempts.read_text().splitlines()) == kills, 120)
            os.kill(int(attempts.read_text().splitlines()[-1].split()[-1]), signal.SIGKILL)
        wait_for((checkpoints / "2/attempts").exists, 240)
        assert f"process {driver.pid}" in ended(tmp_path, monkeypatch, capsys, "status", "tiny")[1]
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130
    assert "interrupted" in ended(tmp_path, monkeypatch, capsys, "status", "tiny")[1]
    wait_for(lambda: not workers_of(tmp_path), 20)
    records = results(tmp_path / "results/tiny")
    assert [record.state for record in records] == ["failed", "complete"]
    assert "process died" in (records[0].error or "") and records[0].attempts == 2
    assert outcome(tmp_path / "results/tiny")["study"] == {"FAIL": 1, "COMPLETE": 1, "RUNNING": 1}


def test_trials_that_wait_to_be_promoted_outlive_the_driver(tmp_path):
    """A killed driver's ranks are those of the next one: who waited is not trained again until it may go on, not all
    pass a rung, and what never could is stopped with all that it had."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    text = experiment.read_text().replace("nsga2, num_trials: 6", "nsga2, scheduler: mo_asha, num_trials: 8")
    experiment.write_text(text.replace("epochs: 2", "epochs: 8").replace("class: 20", "class: 60"))
    log = tmp_path / "driver.log"
    with running(tmp_path, "search", str(experiment)) as driver:
        wait_for(lambda: log.exists() and log.read_text().count("waits after epoch") >= 5)
        os.kill(driver.pid, signal.SIGKILL)
    trained = {}
    for path in run_dir.glob("checkpoints/*/waiting.json"):
        starts = (path.parent / "attempts").read_text().splitlines()
        trained[int(path.parent.name)] = (len(json.loads(path.read_text())["curve"]), len(starts))
    nas(tmp_path, "search", str(experiment), "--resume")
    records, found = results(run_dir), outcome(run_dir)
    assert found["trained"] == 8 and found["repeated_keys"] == found["without_record"] == 0, found
    assert set(found["records"]) == {"complete", "stopped"} and "RUNNING" not in found["study"], found
    lengths = {record.number: len(record.curve) for record in records}
    for rung in (1, 2, 4):
        there = [length for length in lengths.values() if length >= rung]
        assert 0 < sum(length > rung for length in there) < len(there), lengths
    for record in records:
        assert lengths[record.number] in ((8,) if record.state == "complete" else (1, 2, 4)), record
        assert [row["epoch"] for row in record.curve] == list(range(1, lengths[record.number] + 1))
        assert record.costs["num_params"] > 0 and record.seconds > 0
    idle = [record for record in records if trained.get(record.number, (0, 0))[0] == lengths[record.number]]
    assert len(trained) >= 3 and idle
    assert all(record.attempts == trained[record.number][1] for record in idle), (trained, idle)


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
