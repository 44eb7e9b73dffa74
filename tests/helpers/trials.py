"""Single trials of the small experiment, in the process of the test."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from helpers.searches import EXPERIMENT
from nas.config.reading import loads
from nas.config.sections import ExperimentConfig
from nas.runs.record import TrialRecord
from nas.search.trial import TrialContext, TrialTask, run_trial
from nas.space.search_space import SearchSpace

CONFIG = loads(EXPERIMENT, "tiny.yaml")
SPACE = SearchSpace(CONFIG.space)


def task(number: int = 0, label: str = "conv3", seed: int = 7) -> TrialTask:
    params = SPACE.uniform(label) or {}
    return TrialTask(number, SPACE.decode(params), params, seed)


def context(folder: Path, **sections: dict) -> TrialContext:
    """A context for trials of the small experiment, some entries of its sections changed."""
    data = json.loads(CONFIG.model_dump_json())
    for name, entries in sections.items():
        data[name] = data[name] | entries
    return TrialContext(ExperimentConfig.model_validate_json(json.dumps(data)), folder, torch.device("cpu"))


def run(what: TrialTask, where: TrialContext) -> tuple[list[dict], TrialRecord]:
    *rows, last = run_trial(what, where)
    return rows, last["record"]
