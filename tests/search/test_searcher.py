"""The searcher without Ray: what it asks for is trained here, one after the other."""

from __future__ import annotations

import shutil

import numpy as np
import optuna
import pytest
import torch

from helpers.searches import outcome, results, write_experiment
from helpers.trials import task_of, train, train_all
from nas.config.reading import load_experiment
from nas.config.sections import ObjectiveConfig
from nas.runs.folder import write_run
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records
from nas.runs.under_way import trials_under_way
from nas.search.evaluators.context import TrialContext
from nas.search.progress import Progress
from nas.search.run import warm_starts
from nas.search.searcher import StudySearcher
from nas.search.stopping.choosing import make_stopping
from nas.search.stopping.halving import SuccessiveHalving
from nas.search.storage import storage_url
from nas.search.study import Proposal, Study
from nas.search.surrogate.known_costs import known_costs
from nas.search.trial import run_trial
from nas.space.genotype import Genotype
from nas.space.specs import Basic, Conv, Stem


def test_warm_starts_come_first_constraints_reject_before_training_and_a_small_space_ends(tmp_path, capsys):
    """Five architectures, two of them too large, and a published one that is far too large: three are trained."""
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
    read the records."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    options = ["search.num_trials=3", "proxy.epochs=2", "search.scheduler=mo_asha"]
    config, space = load_experiment(experiment, options)
    write_run(run_dir, experiment, config)

    def study() -> Study:
        return Study(config, space, storage_url(config, run_dir), "tiny")

    def driver(study: Study, recovered: list[Proposal]) -> StudySearcher:
        progress = Progress(config.objectives, config.search.num_trials)
        return StudySearcher(
            config, space, study, run_dir, 1, progress, [], recovered, make_stopping(config, [], study.thaw)
        )

    begun = driver(study(), []).suggest("0")
    assert isinstance(begun, dict)
    recovered = (later := study()).reconcile([])
    *_, last = run_trial(task_of(begun), TrialContext(config, run_dir, torch.device("cpu")))
    assert last["record"].number == recovered[0].number == 0
    train_all(searcher := driver(later, recovered))
    found = outcome(run_dir)
    assert found["records"] == {"complete": 3} and found["study"] == {"COMPLETE": 3} and found["attempts"] == 3, found
    assert isinstance(searcher.stopping, SuccessiveHalving) and set(searcher.stopping.rungs[1]) == {
        "0",
        "1",
        "2",
    }  # the first is compared with, too


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
    from the run's files, both are recovered."""
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
    """By three drivers: the first is killed in the middle of the measuring, the second after it."""
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
