"""One contract for all evaluators, through real trials; filters in trials, and in searches that are killed."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from helpers import evaluators
from helpers.searches import nas, outcome, results, running, write_experiment
from helpers.trials import SPACE, context, run, task, train_all
from nas.base.errors import MachineError
from nas.config.evaluators import FIGURE_OF, ShippedEvaluator
from nas.config.reading import load_experiment
from nas.config.sections import ExperimentConfig
from nas.networks.model import build_model
from nas.runs.folder import write_run
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord, read_records
from nas.runs.report import report
from nas.runs.report_text import to_text
from nas.search.evaluators import supernet
from nas.search.evaluators.context import TrialContext
from nas.search.evaluators.evaluation import NEAREST
from nas.search.evaluators.filters import Filters
from nas.search.evaluators.registry import EVALUATORS
from nas.search.forecast import forecast
from nas.search.forecast import to_text as forecast_text
from nas.search.progress import Progress
from nas.search.run import check_machine
from nas.search.searcher import StudySearcher
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.trial import run_trial
from nas.space.genotype import Genotype

WIDTH, ORACLE = "helpers.evaluators:width", "scores:oracle"
SMALL: dict[str, Any] = {"supernet": {"name": "supernet", "epochs": 1, "paths": 2}}
"""Settings of evaluators that by default take long."""
FILTER = [{"name": WIDTH, "keep": 0.5}, "train"]


def losses(record: TrialRecord) -> list[float]:
    return [row["train_loss"] for row in record.curve]


def figures(record: TrialRecord) -> list[dict[str, float]]:
    return [each["figures"] for each in record.evaluations]


def test_the_experiment_file_can_name_every_evaluator():
    assert set(EVALUATORS) == set(get_args(ShippedEvaluator)) == set(FIGURE_OF)


@pytest.mark.parametrize("name", [*EVALUATORS, WIDTH])
def test_contract(tmp_path, name):
    """It says one number under its own name, the same for a seed, once; the record has who judged, and what it took."""
    figure = FIGURE_OF.get(name, "score")
    rows, record = run(task(), context(tmp_path / "a", SMALL.get(name, name)))
    assert read_records(tmp_path / "a") == [record] and record.state == "complete", record.error
    (said,) = record.evaluations
    assert said["evaluator"] == name and list(said["figures"]) == [figure]
    assert said["epochs"] == len(record.curve) == len(rows) and 0 < said["seconds"] <= record.seconds
    assert list(record.objectives) == [figure, "num_params"] and record.objectives[figure] == said["figures"][figure]
    assert record.timings[name] == pytest.approx(said["seconds"], rel=0.5, abs=0.2)
    assert list(run_trial(task(), context(tmp_path / "a", SMALL.get(name, name)))) == [{"record": record}]
    _, again = run(task(), context(tmp_path / "b", SMALL.get(name, name)))
    assert again.objectives == record.objectives and losses(again) == losses(record)
    if name == "zero_cost":
        assert run(task(seed=8), context(tmp_path / "c", name))[1].objectives != record.objectives


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluation_that_was_cut_off_comes_out_alike(tmp_path, name):
    _, whole = run(task(), context(tmp_path / "a", SMALL.get(name, name)))
    trial = run_trial(task(), context(tmp_path / "b", SMALL.get(name, name)))
    cut = "epoch" in next(trial)
    trial.close()
    _, record = run(task(), context(tmp_path / "b", SMALL.get(name, name)))
    assert record.objectives == whole.objectives and losses(record) == losses(whole)
    assert record.attempts == (2 if cut else 1)


def supernet_context(folder: Path, **settings: Any) -> TrialContext:
    return context(folder, {"name": "supernet", "epochs": 2, "paths": 3} | settings, proxy={"epochs": 1})


def test_a_supernet_is_trained_once_and_goes_on_where_it_was_killed(tmp_path):
    """Bit for bit, within an epoch; its weights are then what every trial inherits."""
    whole, cut = (supernet_context(tmp_path / name) for name in ("a", "b"))
    stage = whole.config.evaluators[0]
    rows = list(supernet.trained(stage, whole))
    if not (child := os.fork()):
        steps = itertools.count()

        def save_now() -> bool:
            if (step := next(steps)) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            return step == 7

        cut.save_now = save_now
        list(supernet.trained(stage, cut))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list((tmp_path / "b/supernet/training").glob("*.pt"))) == 1
    again = list(supernet.trained(stage, cut))
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in rows]
    ours, theirs = (supernet.load(where).state_dict() for where in (whole, cut))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and list(supernet.trained(stage, cut)) == []
    assert not (tmp_path / "b/supernet/training").exists()
    _, record = run(task(), cut)
    assert record.state == "complete" and list(record.objectives) == ["supernet", "num_params"]


def test_another_score_can_be_named(tmp_path):
    _, record = run(task(), context(tmp_path, {"name": "zero_cost", "score": "combination"}))
    assert record.evaluations[0]["score"] == "combination" and math.isfinite(record.objectives["zero_cost"])


def test_what_is_no_number_fails_alone_and_passes_as_a_filter(tmp_path):
    _, alone = run(task(), context(tmp_path / "a", "helpers.evaluators:nothing"))
    assert alone.state == "failed" and alone.error == "ArithmeticError: objective score is nan"
    where = context(tmp_path / "b", ["helpers.evaluators:nothing", "train"])
    _, record = run(replace(task(), compared=compared({"num_params": 1.0}, "helpers.evaluators:nothing")), where)
    assert record.state == "complete" and figures(record)[0] == {} and "top1" in figures(record)[1]


def test_a_process_that_dies_while_it_judges_is_followed_by_another(tmp_path):
    where = context(tmp_path, ["helpers.evaluators:dies_once", "train"])
    if not (child := os.fork()):
        run(task(), where)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "trials/0.json").exists()
    _, record = run(task(), where)
    assert record.state == "complete" and record.attempts == 2 and figures(record)[0] == {"score": 64.0}


def compared(costs: dict[str, float], name: str = WIDTH, score: float = 1e6, count: int = NEAREST) -> dict[str, Any]:
    return {name: [costs | {"score": score}] * count}


def test_a_filter_rejects_before_the_training_what_is_not_among_the_best(tmp_path):
    where = context(tmp_path, FILTER)
    rows, record = run(replace(task(), compared=compared({"num_params": 1000.0})), where)
    assert record.state == "rejected" and not rows and not record.curve and not record.objectives
    assert record.error == (
        f"{WIDTH}: 24 of the 24 scored networks that cost about as much have more than {WIDTH} 64; "
        "the best 50% are trained"
    )
    assert figures(record) == [{"score": 64.0}] and 0 <= record.evaluations[0]["seconds"] <= record.seconds
    row = RunReader(tmp_path).refresh().rows[0]
    assert row.value("score") == 64 and list(row.judged) == ["own"] and not row.ended


def test_what_passes_is_trained_as_without_the_filter(tmp_path):
    _, plain = run(task(), context(tmp_path / "a"))
    rows, record = run(task(), context(tmp_path / "b", FILTER))
    assert losses(record) == losses(plain) and record.objectives == plain.objectives
    assert [each["evaluator"] for each in record.evaluations] == [WIDTH, "train"]
    assert all(row["score"] == 64 for row in rows) and "score" not in record.curve[0]
    zero_cost = context(tmp_path / "c", ["zero_cost", "train"])
    assert losses(run(task(), zero_cost)[1]) == losses(plain)


def test_a_filter_compares_with_what_costs_about_as_much(tmp_path):
    cheap = task()
    num_params = run(cheap, context(tmp_path / "a", WIDTH))[1].costs["num_params"]
    near = [{"num_params": 1.1 * num_params, "score": 1.0}] * NEAREST
    dear = [{"num_params": 50 * num_params, "score": 1e6}] * 100
    _, record = run(replace(cheap, compared={WIDTH: [*near, *dear]}), context(tmp_path / "b", FILTER))
    assert record.state == "complete"
    few = near[: NEAREST // 2] + dear  # half of those that are compared with it have more
    _, record = run(replace(cheap, compared={WIDTH: few}), context(tmp_path / "c", FILTER))
    assert record.state == "rejected"


def test_a_trial_that_goes_on_keeps_its_score_and_the_decision(tmp_path):
    where = context(tmp_path, FILTER)
    trial = run_trial(task(), where)
    next(trial)
    trial.close()
    _, record = run(replace(task(), compared=compared({"num_params": 1000.0})), where)
    assert record.state == "complete" and record.attempts == 2 and figures(record)[0] == {"score": 64.0}
    assert len((tmp_path / "called").read_text().split()) == 1


def record_of(number: int, score: float, top1: float | None, rejected: bool = False) -> TrialRecord:
    """A made-up record of a filter's run."""
    params = SPACE.uniform(("conv3", "inv3")[number % 2]) or {}
    genotype = SPACE.decode(params)
    said = {"evaluator": WIDTH, "figures": {"score": score}, "seconds": 0.1, "epochs": 0}
    evaluations = [said | {"rejected": "..."}] if rejected else [said]
    if top1 is not None:
        evaluations.append({"evaluator": "train", "figures": {"top1": top1}, "seconds": 1.0, "epochs": 2})
    return TrialRecord(
        number=number,
        key=str(number),
        state="rejected" if rejected else "complete",
        genotype=genotype.to_dict(),
        costs={"num_params": 10.0 * number},
        evaluations=evaluations,
        objectives={} if top1 is None else {"top1": top1, "num_params": 10.0 * number},
    )


def filtering(tmp_path: Path, **settings: Any) -> ExperimentConfig:
    return context(tmp_path, [{"name": WIDTH, **settings}, "train"]).config


def test_a_filter_rejects_only_once_trainings_bear_it_out_and_says_so_once(tmp_path):
    said: list[str] = []
    filters = Filters(filtering(tmp_path, trained_first=8), [], said.append)
    for number in range(7):
        filters.add(record_of(number, float(number), number / 100))
    assert filters.compared() == {} and not said
    filters.add(record_of(7, 7.0, 0.07))
    assert len(filters.compared()[WIDTH]) == 8 and filters.compared()[WIDTH][3] == {"num_params": 30.0, "score": 3.0}
    assert said == [
        f"filter {WIDTH}, after 8 trainings: Kendall's tau 1.00, 95 % between 1.00 and 1.00; "
        "the best 50% of what costs about as much are trained from now on"
    ]
    for number in range(8, 16):  # and then it ranks them the wrong way round
        filters.add(record_of(number, float(-number), number / 100))
    assert filters.compared() == {} and len(said) == 2
    assert said[1].endswith("it rejects nothing, and is looked at again after 32")
    again = Filters(
        filtering(tmp_path, trained_first=8), [record_of(n, float(n), n / 100) for n in range(8)], said.append
    )
    assert list(again.compared()) == [WIDTH] and len(said) == 2  # the next driver knows without saying


def test_a_filter_lets_one_by_after_many_rejections(tmp_path):
    filters = Filters(filtering(tmp_path, trained_first=5, keep=0.5), [], lambda text: None)
    for number in range(5):
        filters.add(record_of(number, float(number), number / 100))
    for number in range(5, 15):
        assert filters.compared(), number
        filters.add(record_of(number, float(-number), None, rejected=True))
    assert filters.compared() == {}
    filters.add(record_of(15, -15.0, 0.2))
    assert filters.compared()


ODD = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride)
        self.weight = nn.Parameter(torch.ones([1] * (1 + (out_channels > 8))))

    def forward(self, x):
        return self.conv(x) * self.weight.mean()
"""
"""An operator whose parameter has another number of dimensions in a wider network."""

SETTINGS = [
    f"evaluator=[{{name: '{ORACLE}', trained_first: 5, keep: 0.3}}, train]",
    *("search.num_trials=7", "search.sampler=random", "resources.max_concurrent=1"),
    *("proxy.epochs=1", "proxy.learning_rate=0.02", "proxy.batch_size=16"),
]


def search_here(folder: Path, *settings: str) -> list[TrialRecord]:
    """A whole search in this process."""
    shutil.copy(evaluators.__file__, folder / "scores.py")
    experiment, run_dir = write_experiment(folder), folder / "results/tiny"
    config, space = load_experiment(experiment, settings)
    write_run(run_dir, experiment, config)
    study = Study(config, space, storage_url(config, run_dir), "tiny")
    progress = Progress(config.objectives, config.search.num_trials, [])
    train_all(StudySearcher(config, space, study, run_dir, 1, progress, [], study.reconcile([])))
    return results(run_dir)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory) -> list[TrialRecord]:
    return search_here(tmp_path_factory.mktemp("filtered"), *SETTINGS)


def test_rejected_networks_are_no_trainings_and_those_that_are_trained_are_the_better_ones(filtered):
    trained = [record for record in filtered if record.state == "complete"]
    rejected = [record for record in filtered if (record.error or "").startswith(f"{ORACLE}: ")]
    assert len(trained) == 7 and rejected and min(record.number for record in rejected) > 4
    scores = [figures(record)[0]["score"] for record in trained[5:]]
    assert sum(scores) / len(scores) > sum(figures(record)[0]["score"] for record in rejected) / len(rejected)


def test_a_killed_search_decides_the_same(tmp_path, filtered):
    """By the real command, whose driver is killed once a trial after the first five has begun."""
    shutil.copy(evaluators.__file__, tmp_path / "scores.py")
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    sets = [part for text in SETTINGS for part in ("--set", text)]
    with running(tmp_path, "search", str(experiment), *sets) as driver:
        end = time.monotonic() + 200
        while len(list(run_dir.glob("trials/*.json"))) < 6 and time.monotonic() < end:
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()[-3000:]
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
    nas(tmp_path, "search", "--resume", "tiny")
    kept = outcome(run_dir)
    assert kept["trained"] == 7 and not (kept["repeated_keys"] or kept["repeated_numbers"] or kept["without_record"])
    assert [(record.number, record.state, record.error, figures(record)) for record in results(run_dir)] == [
        (record.number, record.state, record.error, figures(record)) for record in filtered
    ]
    said = nas(tmp_path, "report", "tiny").stdout
    num_rejected = sum(len(record.evaluations) == 1 for record in filtered)
    assert f"judged by {ORACLE}: {7 + num_rejected} networks in " in said
    assert f"{num_rejected} rejected, which saved about {num_rejected} epochs" in said
    assert (
        "judged by train: 7 networks, 7 epochs, in " in said
        and "tau 1.00, 95 % between 1.00 and 1.00; it rejects" in said
    )
    line = nas(tmp_path, "status").stdout
    assert f"{ORACLE}: {7 + num_rejected} networks in " in line and "train: 7 networks, 7 epochs, in " in line


def test_a_supernet_comes_before_the_first_trial_of_a_search_and_is_what_a_retraining_starts_from(tmp_path):
    """By the real command, whose driver is killed once a trial has ended: nothing is trained twice."""
    experiment, run_dir = write_experiment(tmp_path), tmp_path / "results/tiny"
    evaluator = "evaluator=[{name: supernet, epochs: 2, paths: 2}, train]"
    sets = [evaluator, "search.num_trials=2", "search.sampler=random", "proxy.epochs=1", "retrain.epochs=1"]
    sets += ["resources.max_concurrent=1", "retrain.dataset=digits", "retrain.resolution=8", "retrain.augment=none"]
    with running(tmp_path, "search", str(experiment), *[part for text in sets for part in ("--set", text)]) as driver:
        end = time.monotonic() + 200
        while not any(run_dir.glob("trials/*.json")) and time.monotonic() < end:
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()[-3000:]
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
    said = (tmp_path / "driver.log").read_text()
    assert "supernet: 2 epochs before the first trial" in said and "supernet: epoch 2, top1 0." in said
    trained = (run_dir / "supernet/config.json").stat().st_mtime_ns
    again = nas(tmp_path, "search", "--resume", "tiny").stderr
    assert "epoch 2, top1" not in again and (run_dir / "supernet/config.json").stat().st_mtime_ns == trained
    kept = outcome(run_dir)
    assert kept["trained"] == 2 and not (kept["repeated_keys"] or kept["repeated_numbers"])
    assert all(0 < figures(record)[0]["supernet"] < 1 for record in results(run_dir))
    assert "judged by supernet: 2 networks, 4 epochs, in " in nas(tmp_path, "report", "tiny").stdout
    key = results(run_dir)[0].key
    ended = nas(tmp_path, "retrain", "tiny", "--key", key, "--weights", "supernet").stderr
    inherited = load_file(run_dir / "supernet/inherited" / key / "model.safetensors")
    alone = build_model(Genotype.from_dict(results(run_dir)[0].genotype), 10, 1)
    assert {*inherited} == {*dict(alone.named_parameters())} and "model.safetensors" in ended


def test_a_search_by_scores_alone_has_a_front_and_no_accuracy(tmp_path):
    records = search_here(tmp_path, "evaluator=zero_cost", "search.num_trials=6")
    assert [record.state for record in records] == ["complete"] * 6
    found = report(tmp_path / "results/tiny")
    assert {objective["name"] for objective in found["objectives"]} == {"zero_cost", "num_params"}
    assert all("top1" not in entry["objectives"] for entry in found["front"]) and found["noise"] is None
    (line,) = found["evaluators"]
    assert (line["evaluator"], line["score"], line["networks"], line["epochs"]) == ("zero_cost", "grad_norm", 6, 0)
    assert "6 of 6 networks (6 complete)" in to_text(found)


def refused(*settings: str, folder: Path) -> str:
    config, space = load_experiment(write_experiment(folder), settings)
    with pytest.raises(MachineError) as problem:
        check_machine(config, space)
    return str(problem.value)


def test_a_dry_run_counts_what_comes_before_the_first_trial(tmp_path):
    settings = ("evaluator=[{name: supernet, epochs: 50, paths: 3}, train]", "search.num_trials=20")
    found = forecast(*load_experiment(write_experiment(tmp_path), settings))
    assert 10 * found["epoch_seconds"] < found["before"]["supernet"] < 1000 * found["epoch_seconds"]
    assert found["hours"] > found["before"]["supernet"] / 3600 and found["scoring"]["supernet"]["networks"] == 24
    assert "before      supernet: about " in forecast_text(found, load_experiment(tmp_path / "tiny.yaml", settings)[0])


def test_what_cannot_judge_a_space_is_refused_before_it_runs(tmp_path):
    said = refused("evaluator={name: supernet, distillation: 0.5}", "proxy.mixup=0.2", folder=tmp_path)
    assert said.startswith(
        "evaluator: distillation = 0.5: with proxy.mixup or cutmix each network of a step has images"
    )
    (tmp_path / "odd.py").write_text(ODD)
    said = refused("evaluator=supernet", "space.operators.sc2={op: 'odd:Odd'}", folder=tmp_path)
    assert "evaluator: the networks of this space cannot share weights: " in said and "odd" in said
    said = refused("evaluator=zero_cost", "proxy.batch_size=4", folder=tmp_path)
    assert said == "proxy.batch_size: 4: zero_cost needs a batch of 8 images or more"
