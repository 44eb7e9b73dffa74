"""One search by one worker, simulated on a space in which a training costs nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas.base.errors import UserError
from nas.config.sections import MOST_MEASURED_FIRST
from nas.runs.pareto import hypervolume
from nas.search.samplers import distribution_of, make_sampler
from nas.search.stopping import Stopping, Verdict
from nas.search.stopping.freeze_thaw import FreezeThaw, thawing_epochs
from nas.search.stopping.halving import SuccessiveHalving
from nas.search.surrogate import Knowledge
from nas.search.surrogate.freeze_thaw import Schedule

REPEATS_BEFORE_RANDOM, RANDOM_DRAWS = 20, 20_000
TOLD = "-told"
Array = NDArray[np.float64]


class BenchSpace(Protocol):
    """A space in which a training costs nothing; objectives are (error, cost), lower is better."""

    name: str
    epochs: int
    reference: Array
    """The reference point of hypervolumes."""

    @property
    def best_hypervolume(self) -> float:
        """That of the best front there is."""
        ...

    def choices(self) -> dict[str, list]: ...

    def active(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters in effect: equal ones are equal networks."""
        ...

    def cost(self, params: dict[str, Any]) -> float:
        """What a measurement before the training finds."""
        ...

    def curve(self, params: dict[str, Any], seed: int) -> Array:
        """The error after each epoch [epochs] of a training with that seed."""
        ...

    def true_error(self, params: dict[str, Any]) -> float:
        """The mean of the final error over seeds, by which a search is judged."""
        ...


@dataclass(frozen=True)
class Course:
    """One search: after each training the share of the best hypervolume, and the epochs trained so far."""

    hypervolumes: list[float]
    epochs: list[int]
    suggest_seconds: list[float]
    """CPU time of each proposal."""
    repeats: int
    """Proposals that were known networks, and not trained."""


def simulate(
    space: BenchSpace, sampler: str, scheduler: str, seed: int, num_trainings: int, num_epochs: float = float("inf")
) -> Course:
    """One search with one worker: asked, trained epoch by epoch, perhaps stopped, told as `nas search` tells it.

    A cost is measured when its network is about to train, as a latency is; `TOLD` after the sampler's name tells it
    the cost of every candidate before, which is so of parameters and MACs alone. `surrogate` has as many networks
    measured before the first training as a search by default. What counts as found are the true
    values of the trainings that came to their end.
    """
    logging.getLogger("optuna").setLevel(logging.ERROR)
    distributions = {name: distribution_of(values) for name, values in space.choices().items()}
    told = sampler.endswith(TOLD)

    def costs_before(params: dict[str, Any]) -> dict[str, float]:
        return {"cost": space.cost(params)} if told else {}

    knowledge = Knowledge(("error", "cost"), None, costs_before, space.active)
    study = optuna.create_study(directions=["minimize", "minimize"])
    stopping = _stopping(scheduler, space, study, partial(_sampler, sampler, seed, distributions, knowledge))
    draw = np.random.default_rng(seed)
    known: set[str] = set()
    found: list[list[float]] = []
    waiting: dict[str, _Training] = {}
    course, repeats, epochs = Course([], [], [], 0), 0, 0
    to_measure = 0 if told or sampler != "surrogate" else min(2 * num_trainings, MOST_MEASURED_FIRST)
    measured: set[str] = set()
    while len(course.epochs) < num_trainings and epochs < num_epochs:
        begin = time.process_time()
        number = len(study.get_trials(deepcopy=False))
        study.sampler = _sampler(sampler, seed, distributions, knowledge, number)
        trial = study.ask(distributions)
        seconds = time.process_time() - begin
        key = repr(sorted(space.active(trial.params).items()))
        if key in known:
            study.tell(trial, state=TrialState.FAIL)
            repeats += 1
            if repeats % REPEATS_BEFORE_RANDOM == 0:
                study.enqueue_trial(_unknown(space, known, draw))
            continue
        if len(measured) < to_measure and key not in measured:
            measured.add(key)
            trial.set_user_attr("costs", json.dumps({"cost": space.cost(trial.params)}))
            trial.set_user_attr("costs_only", "true")
            study.tell(trial, state=TrialState.FAIL)
            continue
        known.add(key)
        course.suggest_seconds.append(seconds)
        name: str | None = str(trial.number)
        waiting[name] = _Training(trial, space.cost(trial.params), space.curve(trial.params, seed))
        trial.set_user_attr("costs", json.dumps({"cost": waiting[name].cost}))
        while name is not None:  # the new one, and then those that may go on
            training = waiting.pop(name)
            before, verdict = training.epochs, training.go_on(stopping)
            epochs += training.epochs - before
            if verdict == "go on":
                study.tell(training.trial, [float(training.curve[-1]), training.cost])
                found.append([space.true_error(training.trial.params), training.cost])
            elif verdict == "stop":
                study.tell(training.trial, state=TrialState.FAIL)
            else:
                waiting[name] = training
            may_begin = len(course.epochs) + 1 < num_trainings and epochs < num_epochs
            name = stopping.promote(may_begin) if stopping and epochs < num_epochs else None
        course.epochs.append(epochs)
        share = hypervolume(found, space.reference) / space.best_hypervolume if found else 0.0
        course.hypervolumes.append(share)
    return Course(course.hypervolumes, course.epochs, course.suggest_seconds, repeats)


@dataclass
class _Training:
    """A training that may stop or wait at a rung."""

    trial: optuna.Trial
    cost: float
    curve: Array
    epochs: int = 0

    def go_on(self, stopping: Stopping | None) -> Verdict:
        """Train up to the next rung that holds it up; "go on" at the end. The trial keeps its curve."""
        verdict: Verdict = "go on"
        while verdict == "go on" and self.epochs < len(self.curve):
            self.epochs += 1
            if stopping is not None:
                values = [float(self.curve[self.epochs - 1]), self.cost]
                verdict = stopping.report(str(self.trial.number), self.epochs, values)
        rows = [[epoch, round(float(error), 6)] for epoch, error in enumerate(self.curve[: self.epochs], start=1)]
        self.trial.set_user_attr("curve", json.dumps(rows))
        return verdict


def _sampler(
    name: str, seed: int, distributions: dict[str, BaseDistribution], knowledge: Knowledge, number: int
) -> BaseSampler:
    return make_sampler(name.removesuffix(TOLD), seed, number, distributions, knowledge)


def _stopping(scheduler: str, space: BenchSpace, study: optuna.Study, sampler: Callable[[int], Any]) -> Stopping | None:
    """What stops trainings, with the settings that a search has by default."""
    if scheduler == "none":
        return None
    if scheduler == "mo_asha":
        return SuccessiveHalving(space.epochs)
    rungs = thawing_epochs(space.epochs, 1, 2)
    schedule = Schedule(space.epochs, rungs)

    def choose(waiting: Mapping[int, int], may_begin: bool) -> int | None:
        number = len(study.get_trials(deepcopy=False))
        return sampler(number).thaw(study, number, waiting, schedule, may_begin)

    return FreezeThaw(rungs, choose)


def _unknown(space: BenchSpace, known: set[str], draw: np.random.Generator) -> dict[str, Any]:
    for _ in range(RANDOM_DRAWS):
        params = {name: values[draw.integers(len(values))] for name, values in space.choices().items()}
        if repr(sorted(space.active(params).items())) not in known:
            return params
    raise UserError(f"--trainings: {space.name} has hardly more than {len(known)} networks; ask for fewer")
