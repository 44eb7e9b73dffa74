"""One contract for all samplers, through a real study in an SQLite file; and what a sampler cannot serve."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from nas.config.sections import ExperimentConfig, ShippedSampler
from nas.runs.record import TrialRecord
from nas.search.samplers import SAMPLERS, check_sampler, distributions_of, make_sampler
from nas.search.storage import storage_url
from nas.search.study import Proposal, Study
from nas.space.search_space import SearchSpace
from nas.space.sections import StageConfig

NUM_TRIALS = {"nsga2": 23, "nsga3": 23, "gp": 13, "tpe": 13}  # past the random proposals that each begins with
CASES = [*((name, 2) for name in SAMPLERS if name != "cmaes"), ("cmaes", 1), ("tpe", 1), ("gp", 1), ("nsga2", 1)]


@dataclass(frozen=True)
class Course:
    """How a search goes: which objectives, which trials fail, what is queued first, when it is opened anew."""

    sampler: str
    num_objectives: int = 2
    seed: int = 3
    num_trials: int = 12
    fails: bool = False
    warm_start: bool = False
    reopened: tuple[int, ...] = ()


def config_of(sampler: str, num_objectives: int = 2, seed: int = 3, **space) -> tuple[ExperimentConfig, SearchSpace]:
    stages = [{"block": ["basic", "bottleneck"], "depth": [1, 2, 3], "width": [16, 32, 48]}]
    data = {
        "space": {
            "stem": {"kind": "small", "width": 8},
            "operators": {"conv3": {"op": "conv"}, "inv3": {"op": "involution", "kernel_size": 3}},
            "stages": stages,
            **space,
        },
        "objectives": [{"name": "top1"}, {"name": "num_params"}][:num_objectives],
        "search": {"sampler": sampler, "seed": seed},
    }
    config = ExperimentConfig.model_validate_json(json.dumps(data))
    return config, SearchSpace(config.space)


def finished(proposal: Proposal, space: SearchSpace, config: ExperimentConfig, fails: bool = False) -> TrialRecord:
    """A record of made-up values that reward depth and width, so that samplers have something to learn."""
    genotype = space.decode(proposal.params)
    width = sum(block.width for block in genotype.blocks)
    values = {"top1": width / (100.0 + width), "num_params": float(width * width + len(genotype.blocks))}
    return TrialRecord(
        number=proposal.number,
        key=genotype.key,
        state="failed" if fails else "complete",
        genotype=genotype.to_dict(),
        params=proposal.params,
        objectives={} if fails else {objective.name: values[objective.name] for objective in config.objectives},
        error="RuntimeError: made up" if fails else None,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """One SQLite file for the studies of the contract: to make its tables takes longer than a trial."""
    return f"sqlite:///{tmp_path_factory.mktemp('contract') / 'study.db'}"


def proposals(url: str, course: Course) -> list[dict]:
    """Ask and tell; the parameters in order."""
    config, space = config_of(course.sampler, course.num_objectives, course.seed)
    name = str(course)
    study, records, found = Study(config, space, url, name), [], []
    if course.warm_start:
        study.enqueue("each_operator inv3", space.uniform("inv3") or {})
    for number in range(course.num_trials):
        if number in course.reopened:
            study = Study(config, space, url, name)
            assert study.reconcile(records) == []
        proposal = study.ask()
        assert proposal.number == number
        space.decode(proposal.params)
        found.append(proposal.params)
        records.append(finished(proposal, space, config, fails=course.fails and number % 4 == 1))
        study.tell(records[-1])
    return found


def test_the_experiment_file_can_name_every_sampler():
    assert set(SAMPLERS) == set(get_args(ShippedSampler))


@pytest.mark.parametrize("sampler, num_objectives", CASES)
def test_contract(url, sampler, num_objectives):
    """Proposals are points of the space that depend on the seed, the number and the told trials alone."""
    num_trials = NUM_TRIALS.get(sampler, 12) if num_objectives == 2 else 12
    course = Course(sampler, num_objectives, num_trials=num_trials, fails=True, warm_start=True)
    whole = proposals(url, course)
    choices = config_of(sampler)[1].choices()
    assert all(params[name] in values for params in whole for name, values in choices.items())
    assert whole[0] == config_of(sampler)[1].uniform("inv3")
    reopened = (1, 5, num_trials - 2)
    assert proposals(url, replace(course, reopened=reopened)) == whole
    other = proposals(url, replace(course, seed=4, num_trials=4))
    assert other[0] == whole[0] and other[1:] != whole[1:4]
    assert len({str(params) for params in whole}) > num_trials // 2


def test_failed_trials_are_not_learned_from(tmp_path):
    """With nothing but failures, evolution stays at random proposals."""
    config, space = config_of("nsga2")
    study = Study(config, space, storage_url(config, tmp_path), "failing")
    found = []
    for _ in range(24):
        proposal = study.ask()
        found.append(proposal.params)
        study.tell(finished(proposal, space, config, fails=True))
    sampler = make_sampler("random", 3, 23, study.distributions)
    drawn = {name: sampler.sample_independent(study.study, None, name, d) for name, d in study.distributions.items()}  # type: ignore[arg-type]
    assert found[23] == drawn


@pytest.mark.parametrize("warm_start", [False, True])
def test_grid_visits_every_point_once_and_goes_on_when_it_is_exhausted(tmp_path, warm_start):
    config, space = config_of("grid", stages=[{"block": "basic", "depth": [1, 2], "width": [16, 32, 64]}])
    study = Study(config, space, storage_url(config, tmp_path), "grid")
    extra = 1 if warm_start else 0
    if warm_start:
        study.enqueue("each_operator inv3", space.uniform("inv3") or {})
    found = []
    for number in range(space.num_points() + extra + 3):
        if number == 5:
            study = Study(config, space, storage_url(config, tmp_path), "grid")
        proposal = study.ask()
        found.append(str(sorted(proposal.params.items())))
        study.tell(finished(proposal, space, config, fails=number % 5 == 2))
    assert space.num_points() == 12
    assert len(set(found[extra : 12 + extra])) == 12


def test_grid_with_trials_under_way_visits_every_point_once(tmp_path):
    config, space = config_of("grid", stages=[{"block": "basic", "depth": [1, 2], "width": [16, 32, 64]}])
    study = Study(config, space, storage_url(config, tmp_path), "grid")
    asked = [study.ask() for _ in range(3)]
    found = list(asked)
    while len(found) < 12:
        study.tell(finished(asked.pop(0), space, config))
        asked.append(study.ask())
        found.append(asked[-1])
    for proposal in asked:
        study.tell(finished(proposal, space, config))
    assert len({str(sorted(proposal.params.items())) for proposal in found}) == 12
    assert all(trial.state.is_finished() for trial in study.study.trials)


def test_evenly_spaced_numbers_are_ranges_and_the_rest_categories():
    config, space = config_of(
        "tpe",
        stages=[
            {"block": ["basic", "bottleneck"], "depth": [3, 1, 2], "width": [16, 32, 64]},
            {"block": "basic", "depth": [2, 4], "width": 32},
        ],
    )
    assert isinstance(config.space.stages[0], StageConfig)
    found = distributions_of(space)
    assert list(found) == list(space.choices())
    assert found["stages.0.block"] == CategoricalDistribution(["basic", "bottleneck"])
    assert found["stages.0.depth"] == IntDistribution(1, 3)
    assert found["stages.0.width"] == CategoricalDistribution([16, 32, 64])
    assert found["stages.1.depth"] == IntDistribution(2, 4, step=2)
    assert found["stages.1.width"] == CategoricalDistribution([32])
    assert found["stages.1.operator"] == CategoricalDistribution(["conv3", "inv3"])


@pytest.mark.parametrize(
    "sampler, num_objectives, stage, message",
    [
        ("cmaes", 2, {}, "cmaes handles one objective, the file has 2; allowed here are random, tpe"),
        ("cmaes", 1, {"depth": 1, "width": [16, 32, 64]}, "cmaes needs a depth or width with evenly spaced numbers"),
        ("grid", 2, {"depth": [1, 2, 3]}, "grid handles 100,000 points, the space has 279,936"),
    ],
)
def test_a_sampler_that_cannot_serve_is_refused(sampler, num_objectives, stage, message):
    stages = [{"block": ["basic", "bottleneck"], "depth": 1, "width": [16, 32], **stage}] * (7 if not stage else 1)
    if sampler == "grid":
        stages = [{"block": "basic", "width": 16, **stage}] * 7
    _, space = config_of(sampler, num_objectives, stages=stages)
    with pytest.raises(ValueError, match=message):
        check_sampler(sampler, num_objectives, space)


def test_every_sampler_serves_a_space_with_ranges():
    _, space = config_of("random", 1)
    for name in SAMPLERS:
        check_sampler(name, 1, space)
