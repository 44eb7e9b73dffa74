"""The evaluator `zero_cost`: a score of the untrained network from one batch of images."""

from __future__ import annotations

import math

import torch

from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import ExperimentConfig
from nas.measure.zero_cost import SMALLEST_BATCH, zero_cost_scores
from nas.networks.model import build_model
from nas.search.evaluators.context import Candidate, Judging
from nas.space.search_space import SearchSpace
from nas.training.process_state import reset_process

PROBE_RESOLUTION, PROBE_CLASSES = 32, 10


def judge(candidate: Candidate) -> Judging:
    """The score that the settings name; no rows."""
    model, (images, labels) = candidate.model().to(candidate.device), candidate.batch()
    name = candidate.stage.score_name
    yield from ()
    with candidate.context.training():
        return zero_cost_scores(model, images, labels, [name])[name]


def check(stage: EvaluatorConfig, config: ExperimentConfig, space: SearchSpace) -> None:
    """Raise ValueError for a batch that is too small, and for a score that networks of some operator do not have, or
    all have alike. It is tried on noise, with one network of each operator."""
    if config.proxy.batch_size < SMALLEST_BATCH:
        raise ValueError(
            f"proxy.batch_size: {config.proxy.batch_size}: zero_cost needs a batch of {SMALLEST_BATCH} images or more"
        )
    name, size = stage.score_name, min(config.proxy.resolution, PROBE_RESOLUTION)
    found: dict[str, float] = {}
    for label in config.space.operators:
        params = space.uniform(label)
        if params is None:
            continue
        reset_process(config.search.seed)
        model = build_model(space.decode(params), PROBE_CLASSES, 3)
        images, labels = torch.randn(SMALLEST_BATCH, 3, size, size), torch.arange(SMALLEST_BATCH)
        found[label] = zero_cost_scores(model, images, labels, [name])[name]
    if nothing := [label for label, score in found.items() if math.isnan(score)]:
        raise ValueError(f"evaluator: the score {name} is no number for networks of {', '.join(nothing)}")
    if len(found) > 1 and len(set(found.values())) == 1:
        raise ValueError(f"evaluator: the score {name} is the same for networks of {', '.join(found)}")
