"""Networks trained again at the end of a search, and by nas confirm: killed, gone on with, each once."""

from __future__ import annotations

import json
import os
import signal
import time

import torch

from helpers.searches import nas, outcome, results, running, write_experiment
from helpers.trials import task_of, train, train_all
from nas.config.reading import load_experiment
from nas.runs.bundle.archive import bundle, opened
from nas.runs.bundle.verify import differences
from nas.runs.folder import write_run
from nas.runs.noise.replicates import left_to_repeat, read_replicates
from nas.search.audit.retrained import retrain
from nas.search.evaluators.context import TrialContext
from nas.search.progress import Progress
from nas.search.replicates.searcher import ReplicatingSearcher
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import run_trial


def test_replicates_come_last_and_once_whoever_dies(tmp_path, capsys):
    """By three drivers: the first is killed while a replicate trains, the second has its process die."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    config, space = load_experiment(experiment, ["search.num_trials=3", "proxy.epochs=2", "search.replicates=2"])
    write_run(run_dir, experiment, config)

    def driver() -> ReplicatingSearcher:
        study = Study(config, space, storage_url(config, run_dir), "tiny")
        records = results(run_dir) if (run_dir / "trials").exists() else []
        progress = Progress(config.objectives, config.search.num_trials, records)
        return ReplicatingSearcher(config, space, study, run_dir, 1, progress, records, study.reconcile(records))

    first = driver()
    train(first, 3)
    weights = {path: path.read_bytes() for path in run_dir.glob("proxy/*/model.safetensors")}
    begun = first.suggest("killed")
    assert isinstance(begun, dict) and begun["number"] == 1 and begun["replicate_of"] in {0, 1, 2}
    assert "replicates: " in (said := capsys.readouterr().err) and " min" in said
    second = driver()
    assert second.suggest("again") == begun and not second.on_trial_error("again", "killed")
    second.on_trial_complete("again", error=True)
    assert second.suggest("once more") == begun
    *_, last = run_trial(task_of(begun), TrialContext(config, run_dir, torch.device("cpu")))
    train_all(driver())
    found = read_replicates(run_dir)
    asked = len(found)
    assert asked >= 1 and all([record.number for record in records] == [1, 2] for records in found.values())
    assert found[begun["replicate_of"]][0] == last["record"]
    by_number = {record.number: record for record in results(run_dir)}
    for number, records in found.items():
        of = by_number[number]
        assert {record.key for record in records} == {of.key} and len({of.seed, *(r.seed for r in records)}) == 3
        assert all(record.costs == of.costs and record.num_validation == of.num_validation == 40 for record in records)
        assert all(record.curve[0]["train_loss"] != of.curve[0]["train_loss"] for record in records)
    kept = outcome(run_dir)
    assert kept["records"] == {"complete": 3} and kept["study"] == {"COMPLETE": 3} and not kept["repeated_keys"]
    assert {path: path.read_bytes() for path in run_dir.glob("proxy/*/model.safetensors")} == weights
    assert not left_to_repeat(run_dir, config, list(by_number.values()))
    with opened(bundle(run_dir, tmp_path / "tiny.bundle.zip")) as (folder, manifest):
        (again,) = retrain(folder, 1, run_code=False, say=print)
        assert again["key"] in {record.key for record in by_number.values()} and again["holds"]
        assert differences(folder, manifest["claims"]) == []


def test_confirm_killed_goes_on_and_the_report_counts_it(tmp_path):
    """By the real command, whose driver is killed once a replicate trains."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    config, space = load_experiment(
        experiment, ["search.num_trials=2", "proxy.epochs=30", "search.scheduler=mo_asha", "resources.max_concurrent=1"]
    )
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    progress = Progress(config.objectives, 2)
    train_all(ReplicatingSearcher(config, space, study, run_dir, 1, progress, [], study.reconcile([])))
    before = results(run_dir)
    with running(tmp_path, "confirm", "tiny") as driver:
        end = time.monotonic() + 200
        while not list(run_dir.glob("replicates/*/checkpoints/1/attempts")) and time.monotonic() < end:
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()[-3000:]
            time.sleep(0.1)
        os.kill(driver.pid, signal.SIGKILL)
    assert "P of front" in nas(tmp_path, "confirm", "tiny").stdout
    found = read_replicates(run_dir)
    assert found and all([record.state for record in records] == ["complete"] for records in found.values())
    assert max(record.attempts for records in found.values() for record in records) == 2
    assert results(run_dir) == before
    reported = json.loads(nas(tmp_path, "report", "tiny", "--json").stdout)
    assert reported["replicates"] == {"finished": len(found), "asked": len(found)}
    assert reported["noise"]["degrees"] == len(found)
    assert not nas(tmp_path, "confirm", "tiny").stderr.count("again,")
