"""The search under SIGKILL: of its driver, of its trials; and two drivers on one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from helpers.clusters import cluster, die
from helpers.searches import (
    ended,
    environment,
    kill_campaign,
    nas,
    outcome,
    results,
    running,
    sizes_of,
    training,
    write_experiment,
)
from nas.config.reading import load_experiment
from nas.search.evaluators.context import TrialContext
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import TrialTask, run_trial


def test_driver_killed_again_and_again(tmp_path):
    """Every training once, one more where the budget is raised at the last resume, and with one worker the same
    networks and metrics as where nothing disturbs: asked for and trained here once more, one after the other."""
    result = kill_campaign(tmp_path, kills=2, num_trials=4, epochs=8, within=1, places=1, more=1, early=2)
    assert result["kills"] == 2 and result["struck"] >= 1, result
    assert result["trained"] == 5 and result["records"]["complete"] == 5, result
    assert result["repeated_keys"] == result["repeated_numbers"] == result["without_record"] == 0, result
    assert "RUNNING" not in result["study"] and result["study"]["COMPLETE"] == 5, result
    assert result["weights_not_of_the_front"] == 0, result
    config, space = load_experiment(tmp_path / "tiny.yaml", ["proxy.epochs=8"])
    study = Study(config, space, storage_url(config, tmp_path), "undisturbed")
    context = TrialContext(config, tmp_path / "undisturbed", torch.device("cpu"))
    for record in results(tmp_path / "results/tiny"):
        proposal = study.ask()
        genotype = space.decode(proposal.params)
        assert (proposal.number, genotype.key) == (record.number, record.key)
        study.tell(record)
        if record.state == "complete":
            *_, last = run_trial(TrialTask(record.number, genotype, proposal.params, record.seed), context)
            assert last["record"].objectives == record.objectives
            assert [row["train_loss"] for row in last["record"].curve] == [row["train_loss"] for row in record.curve]


def test_a_trial_that_keeps_dying_fails_a_second_driver_is_refused_and_an_interrupt_ends_all(
    tmp_path, monkeypatch, capsys
):
    """One search: a second driver is told by whom it is refused; a trial whose process is killed as often as it starts
    fails; the next one is trained; SIGINT during the third leaves no process behind. Asked to, the next life of the
    search trains the failed one under its number."""
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
    assert "process died: 2 times, the last: Worker unexpectedly exits" in (records[0].error or "")
    assert records[0].attempts == 2
    assert outcome(tmp_path / "results/tiny")["study"] == {"FAIL": 1, "COMPLETE": 1, "RUNNING": 1}
    nas(tmp_path, "search", experiment, *sizes_of(3, 40, 1), "--resume", "--retry-failed")
    found, again = outcome(tmp_path / "results/tiny"), results(tmp_path / "results/tiny")
    assert found["records"] == {"complete": 3} and found["study"] == {"COMPLETE": 3}, found
    assert [record.key for record in again[:2]] == [record.key for record in records] and again[0].attempts == 3
    assert (tmp_path / "results/tiny/trials/0.json.retried").exists()


def test_what_asks_a_search_to_end_is_heeded_as_ctrl_c(tmp_path):
    """SIGTERM while a trial trains, and SIGHUP in the next life of the search, which was started with `&`: one line,
    no trace, no process left, and both go on."""
    experiment, run_dir = str(write_experiment(tmp_path)), tmp_path / "results/tiny"
    log, sizes = tmp_path / "driver.log", sizes_of(2, 10_000, 1)
    for number, resume in ((signal.SIGTERM, ()), (signal.SIGHUP, ("--resume",))):
        with running(tmp_path, "search", experiment, *sizes, *resume, heeds_sigint=not resume) as driver:
            wait_for(lambda: training(run_dir / "checkpoints"), 240)
            log.write_text("")
            if resume:
                driver.send_signal(signal.SIGINT)
                time.sleep(1)
                assert driver.poll() is None
            driver.send_signal(number)
            assert driver.wait(60) == 128 + number, log.read_text()
        line = f"stopped by {number.name}; nothing finished is lost, go on with --resume"
        assert log.read_text().strip("\0\n") == line
        wait_for(lambda: not workers_of(tmp_path), 20)
    assert len((run_dir / "checkpoints/0/attempts").read_text().splitlines()) == 2


def test_a_search_none_of_whose_processes_lives_stops_and_says_why(tmp_path):
    """Five deaths in a row: the first trial has used up its retries, the second stays to be gone on with."""
    program = """
from pathlib import Path
from nas.base.ray_session import prepare_environment
prepare_environment(None)
from ray import tune
from nas.config.reading import load_experiment
from nas.search.run import run_search
class Broken(tune.Trainable):
    def setup(self, config, **options):
        import nowhere
config, space = load_experiment(Path("tiny.yaml"), ["resources={max_concurrent: 1}"])
run_search(config, space, Path("results/tiny"), Path("tiny.yaml"), False, None, Broken)"""
    write_experiment(tmp_path)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=300)
    why = "ModuleNotFoundError: No module named 'nowhere'"
    assert done.stderr.splitlines()[-1].endswith(
        "MachineError: 5 processes of trials died one after the other and no trial came to its end, "
        f"the last: {why}; go on with --resume once that is mended"
    ), done.stderr
    records = results(tmp_path / "results/tiny")
    assert [record.error for record in records] == [f"process died: 3 times, the last: {why}"]
    assert f"trial 0 {records[0].key}  failed: process died: 3 times, the last: {why}" in done.stderr
    assert outcome(tmp_path / "results/tiny")["study"] == {"FAIL": 1, "RUNNING": 1}


def test_a_ray_that_does_not_start_in_time_is_started_again(tmp_path):
    """Its raylet is held up until Ray gives up, after half a minute; nothing of the first start is left, and
    what nobody needs is not started. What crashes when the interpreter is taken down has no part in how the process
    ends."""
    program = """
import os, signal, threading, time
from pathlib import Path
from nas.base.ray_session import end_after_ray, prepare_environment, ray_folder, start_ray, stop_ray
prepare_environment(None)
import psutil
def hold_up():
    while True:
        for child in psutil.Process().children():
            if child.name() == "raylet":
                child.suspend()
                return print(child.pid, flush=True)
        time.sleep(0.001)
threading.Thread(target=hold_up, daemon=True).start()
start_ray(ray_folder(Path("run")), None)
print([child.pid for child in psutil.Process().children() if child.name() == "raylet"])
print(*sorted({child.name() for child in psutil.Process().children()}))
stop_ray()
class Crash:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGSEGV)
crash = Crash()
end_after_ray(0)"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    held_up, running, started = done.stdout.splitlines()
    assert len(json.loads(running)) == 1 and int(held_up) not in json.loads(running)
    assert started == "gcs_server raylet"


@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_search_says_that_its_ray_has_died(tmp_path, part):
    """Its own: the Ray of an earlier search of the process is gone, too."""
    program = """
import sys, time
from pathlib import Path
from nas.base.ray_session import prepare_environment, quiet, ray_folder, start_ray, stop_ray
prepare_environment(None)
import psutil
from nas.search.cluster.head import DEAD_SECONDS, LOOK_SECONDS, watch_ray
def watched():
    start_ray(ray_folder(Path("run")), None)
    watch_ray(lambda text: print(text, file=sys.stderr, flush=True), given_address=False)
with quiet():
    watched()
    if sys.argv[1] == "raylet":
        stop_ray()
        watched()
        time.sleep(DEAD_SECONDS + 2 * LOOK_SECONDS)
        print("alive", file=sys.stderr)
    [child.kill() for child in psutil.Process().children() if child.name() == sys.argv[1]]
    time.sleep(100)"""
    command = [sys.executable, "-c", program, part]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(), timeout=300)
    said = "alive\n" if part == "raylet" else ""
    said += "nas: Ray has died on this host; nothing finished is lost, go on with --resume\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_trials_that_wait_to_be_promoted_outlive_the_driver(tmp_path):
    """A killed driver's ranks are those of the next one: who waited is not trained again until it may go on, not all
    pass a rung, and what never could is stopped with all that it had."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    text = experiment.read_text().replace("nsga2, num_trials: 6", "nsga2, scheduler: mo_asha, num_trials: 8")
    experiment.write_text(text.replace("epochs: 2", "epochs: 8").replace("class: 20", "class: 60"))
    with running(tmp_path, "search", str(experiment)) as driver:
        # one of them may be promoted until the kill
        wait_for(lambda: len(list(run_dir.glob("checkpoints/*/waiting.json"))) >= 4)
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


def test_nodes_that_come_are_used_and_trials_of_one_that_dies_go_on_elsewhere(tmp_path, monkeypatch):
    """A cluster of one CPU, two more while a trial trains there, gone again while three train.

    Each trial is held up as it begins, until all places have one, however long their workers take to start.
    """
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    checkpoints, log = run_dir / "checkpoints", tmp_path / "driver.log"
    sizes = [*sizes_of(4, 30, 1), "--set", "resources={max_concurrent: null}"]
    with cluster(1) as ray:
        for name, value in ray.environment.items():
            monkeypatch.setenv(name, value)
        with running(tmp_path, "search", str(experiment), *sizes, "--ray-address", ray.address) as driver:
            (first,) = held_up(checkpoints, 1)
            node = ray.join(2)
            held_up(checkpoints, 3)
            die(node)
            psutil.Process(first).resume()
            wait_for(lambda: "1 at once from now on, 3 before" in log.read_text())
            assert driver.wait(240) == 0, log.read_text()
    said, found = log.read_text(), outcome(run_dir)
    assert " 1 at once, 0 done" in said and "3 at once from now on, 1 before" in said
    assert found["records"] == {"complete": 4} and found["study"] == {"COMPLETE": 4}, found
    assert found["repeated_keys"] == found["repeated_numbers"] == 0 and found["attempts"] == 6, found


def held_up(checkpoints: Path, count: int) -> set[int]:
    """The first so many processes that train, each suspended as soon as it is seen."""
    held: set[int] = set()

    def all_held() -> bool:
        for process in training(checkpoints).keys() - held:
            psutil.Process(process).suspend()
            held.add(process)
        return len(held) >= count

    wait_for(all_held)
    return held


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
