"""The search as a user runs it: real Ray, real Optuna, real trainings, real kills."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import torch
from playwright.sync_api import expect

from helpers.dashboard_pages import elsewhere, served
from helpers.searches import ended, environment, nas, outcome, results, write_experiment
from helpers.tensorboard import scalars
from nas.base.machine import num_cpus
from nas.config.reading import load_experiment
from nas.runs.folder import write_run
from nas.runs.pareto import front
from nas.runs.record import read_records
from nas.search.evaluators.context import TrialContext
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A search of eight trainings and the folder that it runs in; epochs of some tenths of a second, so that trials
    report before their end and some are stopped. Its process cannot import torch, and has no need to."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = write_experiment(folder)
    text = experiment.read_text().replace(
        "nsga2, num_trials: 6", "nsga2, scheduler: mo_asha, halving: stopping, log: [tensorboard], num_trials: 8"
    )
    experiment.write_text(text.replace("epochs: 2", "epochs: 9").replace("class: 20", "class: 80"))
    program = "import sys; sys.modules['torch'] = None; from nas.cli import main; main()"
    command = [sys.executable, "-c", program, "search", "tiny.yaml"]
    with (folder / "driver.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True, env=environment())
        yield folder, process
        process.kill()


def test_the_dashboard_follows_the_search(search, open_page):
    """A page that is opened before the first trial shows each that ends, and the end, without being loaded anew."""
    folder, process = search
    while not (folder / "results/tiny/resolved.yaml").exists():
        assert process.poll() is None, (folder / "driver.log").read_text()
        time.sleep(0.05)
    with served(folder / "results") as url:
        page = open_page(f"{url}/run/tiny")
        expect(page.locator("#state")).to_have_text(re.compile("waiting for the first trial|running"))
        page.evaluate(
            """() => { const text = document.getElementById("progress-text"); window.said = [];
              new MutationObserver(() => window.said.push(text.textContent)).observe(text, {childList: true}); }"""
        )
        expect(page.locator("#state")).to_have_text("finished", timeout=240_000)
        counts = [int(text.split(" of 8")[0]) for text in page.evaluate("window.said")]
        assert counts == sorted(counts) and counts[-1] == 8 and len(set(counts)) > 4, counts
        found = front(results(folder / "results/tiny"), load_experiment(folder / "tiny.yaml", [])[0].objectives)
        expect(page.locator("#front tbody tr td:first-child")).to_have_text([record.key for record in found])
        page.goto(elsewhere())


@pytest.fixture(scope="module")
def finished(search) -> Path:
    """The folder in which the search came to its end."""
    folder, process = search
    assert process.wait(300) == 0, (folder / "driver.log").read_text()
    return folder


def test_tensorboard_is_told_of_each_training_as_it_ends(finished):
    run_dir = finished / "results/tiny"
    numbers = [(step, int(number)) for step, number in scalars(run_dir / "tensorboard", "trial")]
    trained = [record.number for record in read_records(run_dir) if record.state != "rejected"]
    assert [step for step, _ in numbers] == list(range(1, 9)) and {number for _, number in numbers} == {*trained}
    best = [value for _, value in scalars(run_dir / "tensorboard", "best/top1")]
    assert best == sorted(best)
    assert best[-1] == pytest.approx(
        max(found.objectives["top1"] for found in results(run_dir) if found.state == "complete")
    )


def test_networks_are_trained_longer_once_and_say_what_the_search_is_worth(finished, monkeypatch, capsys):
    """The most accurate ones, as they are, by workers of their own; what is there is not trained again."""
    more = ("report", "tiny", "--proxy", "--networks", "2", "--set", "proxy.epochs=11")
    done = nas(finished, *more)
    assert "2 networks are trained for 11 epochs at 8 pixels: as much as 2 trainings of the search" in done.stderr
    assert (
        "Trained longer (epochs 11), 2 networks:" in done.stdout and "too few networks: 2 of at least 8" in done.stdout
    )
    longer, run = results(finished / "results/tiny/longer/epochs-11"), results(finished / "results/tiny")
    best = sorted((record for record in run if record.state == "complete"), key=lambda r: -r.objectives["top1"])[:2]
    assert {record.key for record in longer} == {record.key for record in best}
    assert all(record.state == "complete" and len(record.curve) == 11 for record in longer)
    code, said, errors = ended(finished, monkeypatch, capsys, *more)
    assert (
        code == 0
        and said == done.stdout
        and "are trained" not in errors
        and len(results(finished / "results/tiny/longer/epochs-11")) == 2
    )
    code, _, errors = ended(finished, monkeypatch, capsys, *more[:5], "--set", "search.seed=4")
    assert code == 2 and "only entries of proxy and resources can be set" in errors
    code, _, errors = ended(finished, monkeypatch, capsys, *more[:3], "--networks", "90")
    assert code == 2 and "networks were trained to the end; --networks allows as many at most" in errors


def test_a_search_trains_the_asked_number_of_distinct_networks(finished):
    run_dir = finished / "results" / "tiny"
    found, records = outcome(run_dir), results(run_dir)
    stopped = [record for record in records if record.state == "stopped"]
    complete = [record for record in records if record.state == "complete"]
    assert stopped and complete and len(stopped) + len(complete) == found["trained"] == found["attempts"] == 8, found
    assert found["study"] == {"COMPLETE": len(complete), "FAIL": len(stopped)}
    assert found["repeated_keys"] == found["repeated_numbers"] == found["without_record"] == 0
    for record in records:
        assert Genotype.from_dict(record.genotype).key == record.key and record.error is None
    for record in complete:
        assert [row["epoch"] for row in record.curve] == list(range(1, 10))
        assert record.objectives == {"top1": record.curve[-1]["top1"], "num_params": record.costs["num_params"]}
        assert record.costs["num_macs"] > 0 and record.seconds > 0
    for record in stopped:
        assert [row["epoch"] for row in record.curve] == list(range(1, len(record.curve) + 1))
        assert len(record.curve) < 9 and record.objectives == {}
    assert not list((run_dir / "checkpoints").iterdir())
    assert not (run_dir / "ray").exists()
    assert found["weights_not_of_the_front"] == 0


def test_workers_are_reused(finished):
    """Torch and the data are loaded once per worker: only the first trial of each waits for them."""
    timings = [record.timings for record in results(finished / "results" / "tiny") if record.state == "complete"]
    assert sum(timing["data"] > 0.5 for timing in timings) <= 2


def test_all_places_are_filled_side_by_side_and_stay_so():
    """The real driver and four places of a real cluster, trials of a second, more on a busy machine, that only sleep: a
    worker that is starting is not given up because a trial ended meanwhile, and each trial that ends is followed by the
    next at once."""
    trial_s = max(1, os.getloadavg()[0] / num_cpus())
    command = [sys.executable, "scripts/measure_occupancy.py", "4", "0.5", str(trial_s), "24"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["trials"] == 24 and found["workers"] == 4 == max(found["at_once"]) and found["busy"] > 0.7, found


def test_a_process_that_has_one_core_of_several_runs_one_trial_at_once(tmp_path):
    """Ray by itself counts all that the machine has. And what there is, searches on one cluster share."""
    program = """
from pathlib import Path
from nas.base.ray_session import prepare_environment, ray_folder, start_ray, stop_ray
from nas.config.reading import load_experiment
prepare_environment(None)
from nas.search.cluster.places import num_places
from nas.search.cluster.fair_share import FairShare
config, _ = load_experiment(Path("tiny.yaml"), ["resources={cpus_per_trial: 1}"])
start_ray(ray_folder(Path("run")), None)
fair_share = FairShare()
print(num_places(config.resources, fair_share))
other = FairShare()
print(other.of(5), fair_share.of(5))
other.leave()
print(fair_share.of(5))
stop_ray()"""
    write_experiment(tmp_path)
    core = str(min(os.sched_getaffinity(0)))
    command = ["taskset", "-c", core, sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.stdout == "1\n2 3\n5\n", done.stderr


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "9900000 100000"}, None),
        ({}, None),
    ],
)
def test_a_container_has_the_cpus_of_its_quota(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert num_cpus(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_the_front_is_reported(finished, monkeypatch, capsys):
    code, said, _ = ended(finished, monkeypatch, capsys, "report", "tiny", "--json", "--plot", "front.png")
    front = json.loads(said)["front"]
    points = [(entry["objectives"]["num_params"], entry["objectives"]["top1"]) for entry in front]
    assert front and points == sorted(points)
    assert all(Genotype.from_dict(entry["genotype"]).key == entry["key"] for entry in front)
    complete = {record.key for record in results(finished / "results/tiny") if record.state == "complete"}
    assert {entry["key"] for entry in front} <= complete
    assert code == 0 and (finished / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "finished" in ended(finished, monkeypatch, capsys, "status", "tiny")[1]


def test_resuming_a_finished_run_trains_nothing(finished, monkeypatch, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "results/tiny/trials").iterdir()}
    assert ended(finished, monkeypatch, capsys, "search", "tiny.yaml", "--resume")[0] == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (finished / "results/tiny/trials").iterdir()}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny.yaml"], "exists.*--resume"),
        (["tiny.yaml", "--resume", "--set", "search.seed=4"], r"search\.seed: 3 -> 4"),
        (["tiny.yaml", "--resume", "--set", "proxy.epochs=2"], r"proxy\.epochs: 9 -> 2"),
        (["tiny.yaml", "--name", "../x"], "--name"),
        (["tiny.yaml", "--name", "new", "--resume"], "no run 'new'"),
        (["absent.yaml"], "absent.yaml"),
        (["tiny.yaml", "--name", "new", "--set", "search.sampler=cmaes"], "cmaes handles one objective"),
        (["tiny.yaml", "--name", "new", "--set", "search.sampler=best"], r"(?s)search\.sampler.*random"),
        (["tiny.yaml", "--name", "new", "--set", "search.warm_start=[rednet51]"], "rednet51.*rednet50"),
        (["tiny.yaml", "--name", "new", "--set", "resources.gpus_per_trial=1"], "GPU"),
        (["tiny.yaml", "--name", "new", "--set", "proxy.dataset=imagefolder"], "data_dir"),
        (
            ["tiny.yaml", "--name", "new", "--set", "proxy.data_dir=/nowhere", "--set", "proxy.dataset=imagefolder"],
            "/nowhere",
        ),
        (["tiny.yaml", "--name", "new", "--set", "constraints={num_params: {max: -1}}"], "impossible"),
        (["tiny.yaml", "--name", "new", "--set", "search.storage=nosuch://x"], "storage"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(finished, monkeypatch, capsys, arguments, message):
    before = files_of(finished)
    code, _, errors = ended(finished, monkeypatch, capsys, "search", *arguments)
    assert code == 2, errors
    assert re.search(message, errors), errors
    assert before == files_of(finished)


def test_a_start_that_ray_cannot_serve_leaves_the_name_free(tmp_path):
    write_experiment(tmp_path)
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    options = ("--set", "resources.cpus_per_trial=1000", "--set", f"search.storage={storage}")
    done = nas(tmp_path, "search", "tiny.yaml", *options, check=False)
    assert done.returncode == 2 and "resources.cpus_per_trial: 1000 asked, " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "results/tiny").exists()
    assert optuna.get_all_study_names(storage) == []


def files_of(folder: Path) -> list[Path]:
    """What a run wrote; beside study.db SQLite has files for as long as a reader has it open."""
    return sorted(path for path in (folder / "results").rglob("*") if not path.name.startswith("study.db-"))


@pytest.mark.parametrize(
    "verb", [["report", "x"], ["status", "x"], ["dashboard", "x"], ["retrain", "x", "--key", "1", "--data", "."]]
)
def test_an_unknown_run_is_named(tmp_path, monkeypatch, capsys, verb):
    code, _, errors = ended(tmp_path, monkeypatch, capsys, *verb)
    assert code == 2 and "'x'" in errors, errors


def test_trials_that_diverge_are_failed_with_their_reason(tmp_path, monkeypatch, capsys):
    """Both of two, and the driver is gone before it told the study: --resume tells it, trains nothing and ends with 1,
    as there is nothing to show."""
    options = ("proxy.learning_rate=1e30", "search.num_trials=2")
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    for _ in range(2):
        proposal = study.ask()
        task = TrialTask(proposal.number, space.decode(proposal.params), proposal.params, seed=1)
        list(run_trial(task, TrialContext(config, run_dir, torch.device("cpu"))))
    assert outcome(run_dir)["study"] == {"RUNNING": 2}
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", "tiny.yaml", "--resume", *settings(options))
    assert code == 1, errors
    records = read_records(run_dir)
    assert [record.state for record in records] == ["failed", "failed"]
    assert all((record.error or "").startswith("NonFiniteLoss: ") for record in records)
    assert outcome(run_dir)["study"] == {"FAIL": 2}
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", "tiny", "--json")
    assert code == 0 and json.loads(said)["front"] == []


def settings(options: tuple[str, ...]) -> list[str]:
    return [part for option in options for part in ("--set", option)]
