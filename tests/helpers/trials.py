"""Single trials of the small experiment, in the process of the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from helpers.searches import EXPERIMENT
from nas.config.reading import loads
from nas.config.sections import ExperimentConfig
from nas.runs.record import TrialRecord
from nas.search.evaluators.context import TrialContext
from nas.search.searcher import StudySearcher
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

CONFIG = loads(EXPERIMENT, "tiny.yaml")
SPACE = SearchSpace(CONFIG.space)


def task(number: int = 0, label: str = "conv3", seed: int = 7) -> TrialTask:
    params = SPACE.uniform(label) or {}
    return TrialTask(number, SPACE.decode(params), params, seed)


def context(folder: Path, evaluator: Any = "train", **sections: dict) -> TrialContext:
    """A context for trials of the small experiment, some entries of its sections changed."""
    data = json.loads(CONFIG.model_dump_json()) | {"evaluator": evaluator}
    for name, entries in sections.items():
        data[name] = data[name] | entries
    return TrialContext(ExperimentConfig.model_validate_json(json.dumps(data)), folder, torch.device("cpu"))


def run(what: TrialTask, where: TrialContext) -> tuple[list[dict], TrialRecord]:
    *rows, last = run_trial(what, where)
    return rows, last["record"]


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


def task_of(asked: dict[str, Any]) -> TrialTask:
    genotype = Genotype.from_json(asked["genotype"])
    names = ("number", "params", "seed", "dominating", "costs", "only_costs", "compared", "donor")
    given = {name: asked[name] for name in names}
    return TrialTask(genotype=genotype, replicate_of=asked.get("replicate_of"), **given)
