"""The study against its records: what was cut off is mended, told once, and readable by plain Optuna."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from test_samplers import config_of, finished

from helpers import processes
from nas.base.errors import MachineError
from nas.base.locks import Locked
from nas.search.samplers import distributions_of
from nas.search.storage import check_storage, retrying, storage_url
from nas.search.study import Proposal, Study

CONFIG, SPACE = config_of("tpe")


def opened(folder: Path, sampler: str = "tpe", name: str = "run") -> Study:
    config, space = config_of(sampler)
    return Study(config, space, storage_url(config, folder), name)


def told(study: Study, number: int, fails: bool = False):
    """A trial asked, told and recorded."""
    proposal = study.ask()
    assert proposal.number == number
    record = finished(proposal, SPACE, CONFIG, fails)
    study.tell(record)
    return record


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.study.get_trials(deepcopy=False)]


def test_states_values_and_attributes_are_there_for_plain_optuna(tmp_path):
    study = opened(tmp_path)
    records = [told(study, 0), told(study, 1, fails=True)]
    plain = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [direction.name for direction in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert plain.metric_names == ["top1", "num_params"]
    complete, failed = plain.trials
    assert complete.state == TrialState.COMPLETE and complete.values == list(records[0].objectives.values())
    assert complete.user_attrs == {"key": records[0].key, "state": "complete"}
    assert complete.params == records[0].params
    assert failed.state == TrialState.FAIL and failed.values is None
    assert failed.user_attrs == {"key": records[1].key, "state": "failed", "error": "RuntimeError: made up"}
    assert [trial.number for trial in plain.best_trials] == [0]


def test_tell_is_idempotent(tmp_path):
    study = opened(tmp_path)
    record = told(study, 0)
    before = study.study.trials
    study.tell(record)
    opened(tmp_path).tell(record)
    assert study.study.trials == before


def test_a_running_trial_with_a_record_is_told(tmp_path):
    study = opened(tmp_path)
    record = finished(study.ask(), SPACE, CONFIG)
    again = opened(tmp_path)
    assert again.reconcile([record]) == []
    assert again.study.trials[0].values == list(record.objectives.values())


def test_failed_trials_are_run_again_under_their_numbers(tmp_path):
    """Those that are asked for alone; what they then come to is told as of any other, and they are proposed once."""
    study = opened(tmp_path)
    records = [told(study, 0, fails=True), told(study, 1), told(study, 2, fails=True)]
    config, space = config_of("tpe")
    again = Study(config, space, storage_url(config, tmp_path), "run", again=[0])
    assert again.reconcile(records[1:]) == [Proposal(0, records[0].params)]
    assert states(again) == ["RUNNING", "COMPLETE", "FAIL"] and again.ask().number == 3
    again.tell(finished(Proposal(0, records[0].params), SPACE, CONFIG))
    first = opened(tmp_path).study.trials[0]
    assert first.state == TrialState.COMPLETE and first.values and first.user_attrs["state"] == "complete"
    assert "error" not in first.user_attrs


def test_running_trials_without_a_record_are_adopted_as_they_were(tmp_path):
    study = opened(tmp_path)
    record = told(study, 0)
    left = [study.ask(), study.ask()]
    again = opened(tmp_path)
    assert again.reconcile([record]) == left
    assert again.ask().number == 3  # what is recovered is not proposed once more
    assert states(again) == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]


@pytest.mark.parametrize("sampler, num_drawn", [("random", 0), ("random", 2), ("tpe", 1), ("cmaes", 2), ("grid", 2)])
def test_a_trial_cut_off_while_it_was_drawn_becomes_what_it_would_have_become(
    tmp_path, monkeypatch, sampler, num_drawn
):
    config, space = config_of(sampler, 1)
    found = []
    for name in ("whole", "cut"):
        study, records = Study(config, space, storage_url(config, tmp_path), name), []
        for _ in range(2):
            records.append(finished(study.ask(), space, config))
            study.tell(records[-1])
        if name == "cut":
            with monkeypatch.context() as patch:
                patch.setattr(optuna.trial.Trial, "_suggest", dies_after(num_drawn, optuna.trial.Trial._suggest))
                with pytest.raises(KeyboardInterrupt):
                    study.ask()
            study = Study(config, space, storage_url(config, tmp_path), name)
            assert study.reconcile(records) == []
            assert len(study.study.trials[2].params) == num_drawn
        found.append(study.ask())
        assert states(study) == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert found[0] == found[1] and found[0].number == 2


def test_a_warm_start_cut_off_while_it_was_drawn_keeps_its_parameters(tmp_path, monkeypatch):
    study = opened(tmp_path)
    study.enqueue("each_operator inv3", SPACE.uniform("inv3") or {})
    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "_suggest", dies_after(1, optuna.trial.Trial._suggest))
        with pytest.raises(KeyboardInterrupt):
            study.ask()
    again = opened(tmp_path)
    assert again.reconcile([]) == []
    again.enqueue("each_operator inv3", SPACE.uniform("inv3") or {})
    assert again.ask() == Proposal(0, SPACE.uniform("inv3") or {})
    assert states(again) == ["RUNNING"]


def test_a_lost_study_is_filled_from_the_records(tmp_path):
    study = opened(tmp_path)
    study.enqueue("each_operator inv3", SPACE.uniform("inv3") or {})
    records = [told(study, number, fails=number == 1) for number in range(5)]
    lost = study.study.trials
    proposed = study.ask()
    (tmp_path / "study.db").unlink()
    again = opened(tmp_path)
    missing = 3  # a record that was lost with the study leaves a failed trial in its place
    assert again.reconcile([record for record in records if record.number != missing]) == []
    for before, now in zip(lost, again.study.trials, strict=True):
        if now.number == missing:
            assert now.state == TrialState.FAIL and now.params == {}
        else:
            for name in ("number", "state", "values", "params", "distributions", "system_attrs"):
                if name != "system_attrs" or now.number:  # how the first was queued is not kept
                    assert getattr(now, name) == getattr(before, name)
            assert now.datetime_complete and abs(datetime.now() - now.datetime_complete) < timedelta(minutes=5)
            assert now.user_attrs["key"] == records[now.number].key
    again.enqueue("each_operator inv3", SPACE.uniform("inv3") or {})  # trained before: not proposed once more
    assert again.ask() == proposed and proposed.number == 5


def test_stopped_trials_of_one_objective_are_told_with_their_curve(tmp_path):
    """So that TPE learns from them, also where the study was lost; of two objectives no sampler of Optuna's can."""
    config, space = config_of("tpe", num_objectives=1)
    for name, of_one in (("one", True), ("two", False)):
        config, space = config_of("tpe", num_objectives=1 if of_one else 2)
        study = Study(config, space, storage_url(config, tmp_path), name)
        curve = [{"epoch": epoch, "top1": 0.1 * epoch, "seconds": 1.0} for epoch in (1, 2)]
        record = replace(finished(study.ask(), space, config), state="stopped", curve=curve)
        study.tell(record)
        again = Study(config, space, storage_url(config, tmp_path), f"{name} again")
        again.reconcile([record])
        for (trial,) in (study.study.trials, again.study.trials):
            assert trial.state == (TrialState.PRUNED if of_one else TrialState.FAIL)
            assert trial.intermediate_values == ({1: 0.1, 2: 0.2} if of_one else {}) and trial.params == record.params


def test_a_long_study_is_filled_in_parts_which_are_there_or_not_at_all(tmp_path):
    """1,500 trials, in a tenth of the time of as many commits, after a driver that died between the parts."""
    draw, choices = random.Random(0), SPACE.choices()
    proposals = [
        Proposal(number, {name: draw.choice(values) for name, values in choices.items()}) for number in range(1500)
    ]
    records = [finished(proposal, SPACE, CONFIG) for proposal in proposals]
    assert opened(tmp_path).reconcile(records[:1000]) == []
    begin, study = time.process_time(), opened(tmp_path)
    assert study.reconcile(records) == []
    assert time.process_time() - begin < 3
    trials = study.study.trials
    assert [trial.params for trial in trials] == [record.params for record in records]
    assert [trial.number for trial in trials] == list(range(1500))
    assert study.ask().number == 1500


def test_the_trials_of_another_run_are_refused(tmp_path):
    study = opened(tmp_path)
    records = [told(study, 0), told(study, 1)]
    with pytest.raises(MachineError, match="a study 'run' whose trials this run has no records of"):
        opened(tmp_path).reconcile([])
    swapped = [finished(Proposal(1 - record.number, record.params), SPACE, CONFIG) for record in records]
    with pytest.raises(MachineError, match=r"search\.storage"):
        opened(tmp_path).reconcile(swapped)
    assert opened(tmp_path).reconcile(records) == []
    assert opened(tmp_path, name="other").reconcile([]) == []


def test_a_second_driver_of_a_study_in_a_shared_file_is_refused(tmp_path):
    """Two users' runs of one name, each in its own folder; the first driver dies by SIGKILL."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    config, space = config_of("tpe")
    config = config.model_copy(update={"search": config.search.model_copy(update={"storage": url})})
    hears, says = Pipe(duplex=False)
    first = processes.start(hold_a_study, config, url, says)
    assert hears.poll(60) and hears.recv() == 0
    with pytest.raises(Locked, match=rf"study 'run' in {tmp_path}/studies\.db is in use by process {first.pid} on "):
        Study(config, space, url, "run")
    Study(config, space, url, "another")
    processes.kill(first)
    assert Study(config, space, url, "run", owner="b").study.trials[0].state == TrialState.RUNNING


def hold_a_study(config, url: str, says: Connection) -> None:
    study = Study(config, SPACE, url, "run", owner="a")
    study.reconcile([])
    says.send(study.ask().number)
    time.sleep(600)


def test_the_running_trials_of_another_run_are_not_adopted(tmp_path):
    """Neither run has a record yet; a name and a storage are all that they share."""

    def opened_by(owner: str) -> Study:
        return Study(CONFIG, SPACE, storage_url(CONFIG, tmp_path), "run", owner=owner)

    first = opened_by("a")
    assert first.reconcile([]) == []
    proposal = first.ask()
    with pytest.raises(MachineError, match=r"search\.storage: has a study 'run' whose trials this run has no records"):
        opened_by("b").reconcile([])
    assert opened_by("a").reconcile([]) == [proposal]
    record = finished(proposal, SPACE, CONFIG)
    first.tell(record)
    assert opened_by("b").reconcile([record]) == []  # its records say whose it is, where a run has lost its id
    assert opened_by("b").study.user_attrs == {"run": "b"}


@pytest.mark.parametrize(
    "params, reason",
    [
        ({"stages.0.block": "nope"}, "stages.0.block: 'nope' is not offered; allowed are 'basic', 'bottleneck'"),
        ({"stages.0.width": 16.0}, "stages.0.width: 16.0 is not offered; allowed are 16, 32, 48"),
        ({"stages.0.width": 12}, "stages.0.width: 12 is not offered; allowed are 16, 32, 48"),
        ({"stages.0.depth": True}, "stages.0.depth: True is not offered; allowed are 1, 2, 3"),
        ({"stages.0.depth": None}, "stages.0.depth: None is not offered; allowed are 1, 2, 3"),
        ({"lr": 0.1}, "lr: the space has no such parameter; it has stages.0.block, "),
    ],
)
@pytest.mark.parametrize("sampler", ["random", "tpe", "surrogate"])
def test_wrong_values_queued_from_outside_fail_with_their_reason(tmp_path, sampler, params, reason):
    """By plain Optuna, as the study is a plain one; the next driver goes on behind them."""
    opened(tmp_path, sampler)
    plain = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'study.db'}")
    plain.enqueue_trial(params)
    plain.enqueue_trial({"stages.0.width": 48})
    study = opened(tmp_path, sampler)
    assert study.reconcile([]) == []
    proposal = study.ask()
    assert proposal.number == 1 and proposal.params["stages.0.width"] == 48
    assert states(study) == ["FAIL", "RUNNING"]
    refused = study.study.trials[0]
    assert refused.user_attrs["state"] == "not of this space" and refused.user_attrs["error"].startswith(reason)
    again = opened(tmp_path, sampler)
    assert again.reconcile([]) == [proposal] and again.ask().number == 2


def test_a_running_trial_that_is_no_network_of_the_space_is_not_adopted(tmp_path):
    """An earlier driver ended at the first two; the third is another program's, which is left alone."""
    study = opened(tmp_path).study
    study.enqueue_trial({"stages.0.width": 24})
    with pytest.warns(UserWarning, match="out of range"):
        study.ask(fixed_distributions=distributions_of(SPACE))
    study.add_trial(optuna.create_trial(state=TrialState.RUNNING, user_attrs={"genotype": "{}"}))
    study.ask().suggest_float("lr", 0, 1)
    again = opened(tmp_path)
    assert again.reconcile([]) == [] and again.ask().number == 3
    assert states(again) == ["FAIL", "FAIL", "RUNNING", "RUNNING"]
    assert "24 is not offered" in again.study.trials[0].user_attrs["error"]
    assert again.study.trials[1].user_attrs["error"].startswith("genotype: ")


def test_a_refused_start_takes_its_study_back_and_leaves_others(tmp_path):
    """Elsewhere than in the run's folder it would stay, and refuse the next start under that name."""
    names = [optuna.get_all_study_names(f"sqlite:///{tmp_path / 'study.db'}")]
    told(opened(tmp_path, name="trained"), 0)
    rejected = opened(tmp_path, name="rejected")
    rejected.tell(replace(finished(rejected.ask(), SPACE, CONFIG, fails=True), state="rejected"))
    for study in (rejected, opened(tmp_path, name="empty"), opened(tmp_path, name="trained")):
        study.withdraw()
    names.append(optuna.get_all_study_names(f"sqlite:///{tmp_path / 'study.db'}"))
    assert names == [[], ["trained"]]


def test_a_warm_start_from_outside_the_space_is_told_without_values(tmp_path):
    _, elsewhere = config_of("tpe", stages=[{"block": "basic", "depth": 4, "width": 128}])
    genotype = elsewhere.decode({name: values[0] for name, values in elsewhere.choices().items()})
    study = opened(tmp_path)
    for _ in range(2):
        study.enqueue("outside", {}, genotype.to_json())
    proposal = study.ask()
    assert proposal == Proposal(0, {}, genotype.to_json())
    again = opened(tmp_path)
    assert again.reconcile([]) == [proposal]
    record = replace(finished(again.ask(), SPACE, CONFIG), number=0, key=genotype.key, params={})
    again.tell(record)
    trial = again.study.trials[0]
    assert trial.state == TrialState.FAIL and trial.values is None and trial.user_attrs["state"] == "complete"
    assert again.ask().genotype is None


def test_calls_wait_for_a_locked_storage(tmp_path):
    study = opened(tmp_path)
    proposal = study.ask()
    with locked(tmp_path / "study.db", seconds=8) as holder:
        began = time.monotonic()
        study.tell(finished(proposal, SPACE, CONFIG))
        assert time.monotonic() - began > 5  # longer than SQLite itself waits
        assert holder.wait(20) == 0
    assert study.study.trials[0].state == TrialState.COMPLETE
    assert study.ask().number == 1
    assert states(study) == ["COMPLETE", "RUNNING"]


def test_retrying_gives_up_after_its_budget():
    calls = []

    def fails() -> None:
        calls.append(time.monotonic())
        raise StorageInternalError("locked")

    with pytest.raises(StorageInternalError):
        retrying(fails, seconds=1.0)
    assert 3 <= len(calls) <= 5 and 0.5 < calls[-1] - calls[0] < 1.5
    with pytest.raises(KeyError):  # what is not the storage's is not repeated
        retrying(lambda: {}["absent"], seconds=60)


@pytest.mark.parametrize(
    "url, message",
    [
        ("no url", "search.storage: not a database URL; expected is such as postgresql"),
        ("nosuch://host/name", "search.storage: nosuch://host/name"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/name", r"search.storage: postgresql\+psycopg://user:\*\*\*@127"),
        ("mysql://user:secret@host/name", r"mysql://user:\*\*\*@host/name: mysql has no lock .* allowed are post"),
        ("postgres://user:secret@host/name", r"user:\*\*\*@host/name: write postgresql\+psycopg:// for postgres://"),
        ("postgresql+pg8000://user:secret@host/name", r"No module named 'pg8000'; write postgresql\+psycopg://"),
        (
            "postgresql+psycopg://user:secret@host:port/name",
            r"user:\*\*\*@host:port/name: the port, .* a number",
        ),
        ("postgresql+psycopg://user:p@secret@host/name", r"psycopg://user:\*\*\*@\.\.\.: .* write @ as %40, / as %2F"),
        ("postgresql+psycopg://user:p#/secret:1@host/name", r"user:\*\*\*@\.\.\.: .* PGPASSWORD or ~/\.pgpass can"),
        ("postgresql+psycopg://user:50%secret@host/name", r"user:\*\*\*@\.\.\.: .* % as %25"),
        ("postgresql+psycopg://user:my secret@host/name", r"user:\*\*\*@\.\.\.: "),
        ("postgresql+psycopg://user@127.0.0.1:1/name?password=secret", r"name\?password=\*\*\*: "),
        ("sqlite:////nowhere/at/all.db", "search.storage: sqlite:////nowhere/at/all.db"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(url, message):
    with pytest.raises(MachineError, match=message) as refused:
        check_storage(url)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


def test_without_the_driver_the_extra_is_named():
    program = (
        "import sys; sys.modules['psycopg'] = None  # as where it is not installed\n"
        "from nas.search.storage import check_storage; check_storage('postgresql+psycopg://user:secret@host/name')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (
        done.stderr.strip().endswith("pip install 'opnas[postgres]'")
        and "secret@" not in done.stderr.split("Error: ")[1]
    )


def dies_after(num_calls: int, call):
    """`call` for some times; then what a killed process does: nothing more."""
    left = iter(range(num_calls))

    def limited(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(*arguments)

    return limited


@contextmanager
def locked(database: Path, seconds: float):
    """Another process holds the database for itself for some seconds."""
    program = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('begin exclusive'); print('held', flush=True); time.sleep(float(sys.argv[2])); c.execute('rollback')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database), str(seconds)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process


def test_the_sampler_is_told_the_limits_and_the_reference_of_the_file(tmp_path):
    data = json.loads(CONFIG.model_dump_json())
    data["search"]["reference"] = {"top1": 0.7}
    data["constraints"] = {"num_params": {"max": 1000}}
    config = type(CONFIG).model_validate_json(json.dumps(data))
    study = Study(config, SPACE, storage_url(config, tmp_path), "run")
    assert study.knowledge.reference == {"top1": 0.7}
    assert study.knowledge.limits == {"num_params": (-float("inf"), 1000)}
