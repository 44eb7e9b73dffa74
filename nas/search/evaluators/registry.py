"""EVALUATORS: what an experiment can name as its evaluator, and what it can serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from nas.base.extensions import is_own, load
from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import ExperimentConfig
from nas.search.evaluators import supernet, training, zero_cost
from nas.search.evaluators.context import Candidate, Judging, TrialContext
from nas.space.search_space import SearchSpace
from nas.training.loop import Row

Check = Callable[[EvaluatorConfig, ExperimentConfig, SearchSpace], None]


def _serves_all(stage: EvaluatorConfig, config: ExperimentConfig, space: SearchSpace) -> None:
    """It judges networks of every space."""


@dataclass(frozen=True)
class Evaluator:
    """How a network is judged within a trial.

    `judge` yields a row per epoch (none, where nothing is trained) and returns the figure that
    `nas.config.evaluators.FIGURE_OF` names. It follows from the candidate alone, so that a trial which was killed is
    judged alike; what it raises fails the trial. `check` raises ValueError, with the key of the file, where it cannot
    judge networks of the space, before any trial.
    """

    judge: Callable[[Candidate], Judging]
    check: Check = _serves_all
    prepare: Callable[[EvaluatorConfig, TrialContext], Iterator[Row]] | None = None
    """What has to be done once, before the first trial of a run; it yields a row per epoch."""


EVALUATORS: dict[str, Evaluator] = {
    "train": Evaluator(training.judge),
    "zero_cost": Evaluator(zero_cost.judge, zero_cost.check),
    "supernet": Evaluator(supernet.judge, supernet.check, supernet.trained),
}


def find_evaluator(name: str) -> Evaluator:
    """Of the package, or `module:function` of somebody else, which takes a candidate and gives a number."""
    return Evaluator(partial(_own, load(name))) if is_own(name) else EVALUATORS[name]


def _own(judge: Callable[[Candidate], float], candidate: Candidate) -> Judging:
    yield from ()
    return float(judge(candidate))


def check_evaluators(config: ExperimentConfig, space: SearchSpace) -> None:
    """Raise ValueError where one of the evaluators cannot judge networks of this space."""
    for stage in config.evaluators:
        find_evaluator(stage.name).check(stage, config, space)
