"""The search as a user runs it: real Ray, real Optuna, real trainings, real kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from playwright.sync_api import expect

from helpers.dashboard_pages import elsewhere, served
from helpers.searches import ended, environment, nas, outcome, results, write_experiment
from nas.base.machine import num_cpus
from nas.config.reading import load_experiment
from nas.config.sections import ObjectiveConfig
from nas.runs.folder import write_run
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records
from nas.runs.under_way import trials_under_way
from nas.search.progress import Progress
from nas.search.run import warm_starts
from nas.search.scheduler import make_halving
from nas.search.searcher import StudySearcher
from nas.search.storage import storage_url
from nas.search.study import Proposal, Study
from nas.search.surrogate.known_costs import known_costs
from nas.search.trial import TrialContext, TrialTask, run_trial
from nas.space.genotype import Genotype
from nas.space.specs import Basic, Conv, Stem


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A search of eight trainings and the folder that it runs in; epochs of some tenths of a second, so that trials
    report before their end and some are stopped. Its process ends with an error if it ever imported torch."""
    folder = tmp_path_factory.mktemp("finished")
    experiment = write_experiment(folder)
    text = experiment.read_text().replace(
        "nsga2, num_trials: 6", "nsga2, scheduler: mo_asha, halving: stopping, num_trials: 8"
    )
    experiment.write_text(text.replace("epochs: 2", "epochs: 9").replace("class: 20", "class: 80"))
    program = "import sys; from nas.cli import main; main(); sys.exit('torch' in sys.modules)"
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
        expect(page.locator("#state")).to_have_text("waiting for the first trial")
        page.evaluate(
            """() => { const text = document.getElementById("progress-text"); window.said = [];
              new MutationObserver(() => window.said.push(text.textContent)).observe(text, {childList: true}); }"""
        )
        expect(page.locator("#state")).to_have_text("running", timeout=120_000)
        expect(page.locator("#state")).to_have_text("finished", timeout=120_000)
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


def test_warm_starts_come_first_constraints_reject_before_training_and_a_small_space_ends(tmp_path, capsys):
    """Five architectures, two of them too large, and a published one that is far too large: three are trained. Without
    Ray: what it asks its searcher for is run here, one after the other."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    text = experiment.read_text().replace(
        "[basic, bottleneck], depth: [1, 2], width: [8, 16]", "basic, depth: 1, width: 8"
    )
    text = text.replace("[basic, gated], depth: 1, width: [16, 32]", "basic, depth: 1, width: 16, operator: [conv3]")
    experiment.write_text(text)
    options = ("constraints={num_params: {max: 5500}}", "search.warm_start=[each_operator, scnet50]")
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    for name, params, genotype in warm_starts(config, space):
        study.enqueue(name, params, genotype)
    progress = Progress(config.objectives, config.search.num_trials)
    searcher = StudySearcher(config, space, study, run_dir, 1, progress, [], study.reconcile([]))
    train_all(searcher)
    assert searcher.impossible is None
    records = results(run_dir)
    trained = [record for record in records if record.state != "rejected"]
    assert len(trained) == 3 and all(record.costs["num_params"] <= 5500 for record in trained)
    broken = [record for record in records if "constraint" in (record.error or "")]
    assert len({record.key for record in broken}) == 3 and all(not record.curve for record in broken)
    assert {block["operator"]["op"] for block in records[0].genotype["stages"][0]} == {"conv"}
    assert "no further architecture" in capsys.readouterr().err
    assert all(trial.state.is_finished() for trial in study.study.trials)


def test_a_trial_that_ends_while_the_next_driver_starts_counts_once(tmp_path):
    """The process of a trial outlives its killed driver for a moment: its record may come when the next driver has
    read the records. Without Ray, as above."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["search.num_trials=3", "proxy.epochs=2", "search.scheduler=mo_asha"]
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)

    def study() -> Study:
        return Study(config, space, storage_url(config, run_dir), "tiny")

    def driver(study: Study, recovered: list[Proposal]) -> StudySearcher:
        progress = Progress(config.objectives, config.search.num_trials)
        return StudySearcher(config, space, study, run_dir, 1, progress, [], recovered, make_halving(config, []))

    begun = driver(study(), []).suggest("0")
    assert isinstance(begun, dict)
    recovered = (later := study()).reconcile([])
    *_, last = run_trial(task_of(begun), TrialContext(config, run_dir, torch.device("cpu")))
    assert last["record"].number == recovered[0].number == 0
    train_all(searcher := driver(later, recovered))
    found = outcome(run_dir)
    assert found["records"] == {"complete": 3} and found["study"] == {"COMPLETE": 3} and found["attempts"] == 3, found
    assert searcher.halving and set(searcher.halving.rungs[1]) == {"0", "1", "2"}  # the first is compared with, too


def test_a_torn_record_of_a_trial_whose_process_died_does_not_end_the_driver(tmp_path):
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    config, space = load_experiment(experiment, ["search.num_trials=1"])
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    searcher = StudySearcher(config, space, study, run_dir, 1, Progress(config.objectives, 1), [], [])
    assert isinstance(searcher.suggest("0"), dict)
    (run_dir / "trials").mkdir()
    (run_dir / "trials/0.json").write_text('{"number": 0')
    while not searcher.on_trial_error("0", "killed"):
        pass  # it would be started again
    searcher.on_trial_complete("0", error=True)
    (record,) = read_records(run_dir)
    assert record.state == "failed" and (run_dir / "trials/0.json.unreadable").read_text() == '{"number": 0'


@pytest.mark.parametrize("change", ["nothing", "deleted", "storage", "renamed", "copied"])
def test_trials_under_way_go_on_whatever_becomes_of_the_study(tmp_path, change):
    """Two trials have begun, one of a network from outside the space, when the driver dies. With a new study, filled
    from the run's files, both are recovered. Without Ray, as above."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["search.num_trials=3", "search.sampler=tpe", "proxy.epochs=2"]
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)

    def driver() -> StudySearcher:
        study, records = Study(config, space, storage_url(config, run_dir), run_dir.name), read_records(run_dir)
        recovered = study.reconcile(records, trials_under_way(run_dir))
        if not records:
            study.enqueue(
                "outside", {}, Genotype(stem=Stem(kind="small"), stages=((Basic(width=8, operator=Conv()),),)).to_json()
            )
        return StudySearcher(config, space, study, run_dir, 3, Progress(config.objectives, 3), records, recovered)

    first = driver()
    context = TrialContext(config, run_dir, torch.device("cpu"))
    tasks = [task_of(asked) for name in "012" if isinstance(asked := first.suggest(name), dict)]
    for trial in tasks[:2]:
        rows = run_trial(trial, context)
        next(rows)
        rows.close()
    *_, last = run_trial(tasks[2], context)
    if change == "deleted":
        (run_dir / "study.db").unlink()
    elif change == "storage":
        config, space = load_experiment(experiment, [*options, f"search.storage=sqlite:///{tmp_path / 'other.db'}"])
    elif change in ("renamed", "copied"):
        shutil.copytree(run_dir, run_dir := tmp_path / "results/other")
        if change == "renamed":
            shutil.rmtree(tmp_path / "results/tiny")
    later = driver()
    assert [proposal.number for proposal in later.recovered] == [0, 1]
    train_all(later)
    records = results(run_dir)
    assert [record.key for record in records] == [trial.genotype.key for trial in tasks]
    assert [record.attempts for record in records] == [2, 2, 1] and records[2] == last["record"]
    study = optuna.load_study(study_name=run_dir.name, storage=storage_url(config, run_dir))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].values == list(records[1].objectives.values())


def test_a_repeat_that_the_last_driver_did_not_reject_any_more_is_not_trained(tmp_path):
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    config, space = load_experiment(experiment, ["search.num_trials=2", "proxy.epochs=1"])
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    progress = Progress(config.objectives, config.search.num_trials)
    searcher = StudySearcher(config, space, study, run_dir, 1, progress, [], [])
    first = searcher.suggest("0")
    assert isinstance(first, dict)
    *_, last = run_trial(task_of(first), TrialContext(config, run_dir, torch.device("cpu")))
    study.tell(last["record"])
    study.study.enqueue_trial(first["params"])
    study.ask()
    study, records = Study(config, space, storage_url(config, run_dir), "tiny"), results(run_dir)
    recovered = study.reconcile(records)
    assert [proposal.number for proposal in recovered] == [1]
    train_all(StudySearcher(config, space, study, run_dir, 1, progress, records, recovered))
    found = outcome(run_dir)
    assert found["records"] == {"complete": 2, "rejected": 1} and found["repeated_keys"] == 0, found


def test_limits_that_nothing_keeps_leave_no_trial_running_and_may_be_widened(tmp_path):
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["search.num_trials=1", "search.sampler=surrogate", "proxy.epochs=1"]

    def searcher(limit: int) -> StudySearcher:
        config, space = load_experiment(experiment, [*options, f"constraints={{num_params: {{max: {limit}}}}}"])
        if not run_dir.exists():
            write_run(run_dir, experiment, config)
        study = Study(config, space, storage_url(config, run_dir), "tiny", known_costs(space, config.proxy))
        progress = Progress(config.objectives, config.search.num_trials)
        return StudySearcher(config, space, study, run_dir, 1, progress, [], study.reconcile([]))

    hopeless = searcher(10)
    assert hopeless.suggest("0") == hopeless.FINISHED
    assert "no candidate has num_params at most 10; the nearest of 40 descents: num_params " in (
        hopeless.impossible or ""
    )
    assert [trial.state.name for trial in hopeless.study.study.trials] == ["FAIL"]
    train_all(searcher(1_000_000))
    assert outcome(run_dir)["records"] == {"complete": 1}


def test_costs_are_measured_before_the_first_training_and_once(tmp_path):
    """By three drivers: the first is killed in the middle of the measuring, the second after it. Without Ray, as
    above."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["search.num_trials=3", "search.sampler=surrogate", "proxy.epochs=1", "search.measured_first=4"]
    objectives = "objectives=[{name: top1}, {name: latency_ms, device: cpu}]"
    config, space = load_experiment(experiment, [*options, objectives])
    write_run(run_dir, experiment, config)

    def driver() -> StudySearcher:
        study = Study(config, space, storage_url(config, run_dir), "tiny")
        records = results(run_dir) if (run_dir / "trials").exists() else []
        progress = Progress(config.objectives, config.search.num_trials, records)
        return StudySearcher(config, space, study, run_dir, 1, progress, records, study.reconcile(records))

    first = driver()
    train(first, 2)
    killed = first.suggest("under way")
    assert isinstance(killed, dict) and killed["only_costs"]
    second = driver()
    second.study.study.enqueue_trial(results(run_dir)[0].params)
    train(second, 3)
    train_all(driver())
    measured = [record for record in results(run_dir) if record.only_measured]
    trained = [record for record in results(run_dir) if record.curve]
    assert [record.number for record in measured] == [0, 1, 2, 4]  # 3 was queued
    assert [record.state for record in trained] == ["complete"] * 3
    assert len({record.key for record in measured}) == 4 and len({record.key for record in trained}) == 3
    assert trained[0].key == measured[0].key and trained[0].costs == measured[0].costs
    assert outcome(run_dir)["study"] == {"FAIL": 4, "COMPLETE": 3}


def train_all(searcher: StudySearcher) -> None:
    """What Ray does with a searcher, one trial after the other in this process."""
    assert train(searcher, 1000) == searcher.FINISHED


def train(searcher: StudySearcher, most: int) -> object:
    """That for at most so many trials; what it was asked for after the last."""
    context, asked = TrialContext(searcher.config, searcher.run_dir, torch.device("cpu")), None
    for name in map(str, range(most)):
        if not isinstance(asked := searcher.suggest(name), dict):
            break
        *rows, last = run_trial(task_of(asked), context)
        searcher.on_trial_complete(name, {"rows": rows, "record": last["record"].to_json()})
    return asked


@pytest.mark.parametrize("seed", range(3))
def test_progress_says_what_is_on_the_front_of_all_records_so_far(capsys, seed):
    draw = np.random.default_rng(seed)
    objectives = [ObjectiveConfig.model_validate({"name": name}) for name in ("top1", "num_params")]
    states = draw.choice(["complete", "complete", "stopped", "rejected"], size=60)
    records = [
        TrialRecord(
            number=number, key=str(number), state=state, genotype={},
            objectives={"top1": int(draw.integers(9)) / 10, "num_params": float(draw.integers(9))},
        )
        for number, state in enumerate(states.tolist())
    ]  # fmt: skip
    progress = Progress(objectives, 100, records[:10])
    for at, record in enumerate(records[10:], start=11):
        progress.finished(record)
        said, trained = capsys.readouterr().err, sum(other.state != "rejected" for other in records[:at])
        assert said.startswith(f"{trained}/100" if record.state != "rejected" else ""), said
        assert ("on the front" in said) == (record in front(records[:at], objectives)), said


def task_of(asked: dict[str, Any]) -> TrialTask:
    genotype = Genotype.from_json(asked["genotype"])
    given = {name: asked[name] for name in ("number", "params", "seed", "dominating", "costs", "only_costs")}
    return TrialTask(genotype=genotype, **given)


def settings(options: tuple[str, ...]) -> list[str]:
    return [part for option in options for part in ("--set", option)]
