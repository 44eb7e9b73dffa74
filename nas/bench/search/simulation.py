"""One search, simulated on a space in which a training costs nothing."""

from __future__ import annotations

import heapq
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from nas.base.errors import UserError
from nas.config.sections import MOST_MEASURED_FIRST
from nas.runs.pareto import hypervolume
from nas.search.samplers import distribution_of, make_sampler
from nas.search.stopping import Stopping
from nas.search.stopping.freeze_thaw import FreezeThaw, thawing_epochs
from nas.search.stopping.halving import SuccessiveHalving
from nas.search.surrogate import Knowledge, SurrogateSampler
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
    reached: list[tuple[int, float]]
    """Epochs trained so far, by all workers, and the share, after each training that came to its end."""


def simulate(
    space: BenchSpace,
    sampler: str,
    scheduler: str,
    seed: int,
    num_trainings: int,
    num_epochs: float = float("inf"),
    num_workers: int = 1,
) -> Course:
    """One search: asked, trained epoch by epoch, perhaps stopped, told as `nas search` tells it.

    A cost is measured when its network is about to train, as a latency is; `TOLD` after the sampler's name tells it
    the cost of every candidate before, which is so of parameters and MACs alone. `surrogate` has as many networks
    measured before the first training as a search by default. What counts as found are the true
    values of the trainings that came to their end. An epoch takes every worker equally long.
    """
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return _Simulation(space, sampler, scheduler, seed, num_trainings, num_epochs).run(num_workers)


class _Simulation:
    def __init__(
        self, space: BenchSpace, sampler: str, scheduler: str, seed: int, num_trainings: int, num_epochs: float
    ):
        self.space, self.seed, self.num_trainings, self.num_epochs = space, seed, num_trainings, num_epochs
        self.distributions = {name: distribution_of(values) for name, values in space.choices().items()}
        self.name, told = sampler.removesuffix(TOLD), sampler.endswith(TOLD)

        def costs_before(params: dict[str, Any]) -> dict[str, float]:
            return {"cost": space.cost(params)} if told else {}

        self.knowledge = Knowledge(("error", "cost"), known=costs_before, active=space.active)
        self.study = optuna.create_study(directions=["minimize", "minimize"])
        self.stopping = self._stopping(scheduler)
        self.draw = np.random.default_rng(seed)
        self.known: set[str] = set()
        self.measured: set[str] = set()
        self.to_measure = 0 if told or sampler != "surrogate" else min(2 * num_trainings, MOST_MEASURED_FIRST)
        self.found: list[list[float]] = []
        self.trainings: dict[str, _Training] = {}
        self.course, self.repeats, self.epochs = Course([], [], [], 0, []), 0, 0

    def run(self, num_workers: int) -> Course:
        """An event is the end of an epoch; a worker that is free then takes what is next, if there is anything."""
        busy: list[tuple[int, int, str]] = []  # until when, a number that tells equal times apart, what: a heap
        turns, now = count(), 0
        while True:
            while len(busy) < num_workers and (name := self._next()) is not None:
                heapq.heappush(busy, (now + 1, next(turns), name))
            if not busy:
                break
            now, _, name = heapq.heappop(busy)
            while not self._trained(self.trainings[name]):
                heapq.heappush(busy, (now + 1, next(turns), name))
                now, _, name = heapq.heappop(busy)
        self._note()
        return replace(self.course, repeats=self.repeats)

    def _next(self) -> str | None:
        """What a free worker trains: one that waits, or a new one; None where nothing is left to do for now."""
        if self.epochs >= self.num_epochs:
            return None
        begun = len(self.course.suggest_seconds)
        name = self.stopping.promote(begun < self.num_trainings) if self.stopping and begun else None
        if name is not None or begun == self.num_trainings:
            return name
        if begun:
            self._note()
        return self._begun()

    def _note(self) -> None:
        self.course.epochs.append(self.epochs)
        self.course.hypervolumes.append(self.course.reached[-1][1] if self.found else 0.0)

    def _begun(self) -> str:
        """A new training, after proposals that are only measured, or known."""
        while True:
            begin = time.process_time()
            self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask(self.distributions)
            seconds = time.process_time() - begin
            key = repr(sorted(self.space.active(trial.params).items()))
            cost = self.space.cost(trial.params)
            if key in self.known:
                self.study.tell(trial, state=TrialState.FAIL)
                self.repeats += 1
                if self.repeats % REPEATS_BEFORE_RANDOM == 0:
                    self.study.enqueue_trial(self._unknown())
                continue
            trial.set_user_attr("costs", json.dumps({"cost": cost}))
            if len(self.measured) < self.to_measure and key not in self.measured:
                self.measured.add(key)
                trial.set_user_attr("costs_only", "true")
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            self.known.add(key)
            self.course.suggest_seconds.append(seconds)
            self.trainings[str(trial.number)] = _Training(trial, cost, self.space.curve(trial.params, self.seed))
            return str(trial.number)

    def _trained(self, training: _Training) -> bool:
        """Train an epoch; whether the worker is free then."""
        training.epochs += 1
        self.epochs += 1
        name, verdict = str(training.trial.number), "go on"
        if self.stopping is not None:
            values = [float(training.curve[training.epochs - 1]), training.cost]
            verdict = self.stopping.report(name, training.epochs, values)
        at_end = training.epochs == len(training.curve)
        if verdict == "go on" and not at_end:
            return False
        rows = [[epoch, round(float(error), 6)] for epoch, error in enumerate(training.curve[: training.epochs], 1)]
        training.trial.set_user_attr("curve", json.dumps(rows))
        if verdict == "go on":
            self.study.tell(training.trial, [float(training.curve[-1]), training.cost])
            self.found.append([self.space.true_error(training.trial.params), training.cost])
            share = hypervolume(self.found, self.space.reference) / self.space.best_hypervolume
            self.course.reached.append((self.epochs, share))
        elif verdict == "stop":
            self.study.tell(training.trial, state=TrialState.FAIL)
        return True

    def _sampler(self, number: int) -> BaseSampler:
        return make_sampler(self.name, self.seed, number, self.distributions, self.knowledge)

    def _stopping(self, scheduler: str) -> Stopping | None:
        """What stops trainings, with the settings that a search has by default."""
        if scheduler == "none":
            return None
        if scheduler == "mo_asha":
            return SuccessiveHalving(self.space.epochs)
        rungs = thawing_epochs(self.space.epochs, 1, 2)
        schedule = Schedule(self.space.epochs, rungs)

        def choose(waiting: Mapping[int, int], may_begin: bool) -> int | None:
            number = len(self.study.get_trials(deepcopy=False))
            sampler = cast(SurrogateSampler, self._sampler(number))
            return sampler.thaw(self.study, number, waiting, schedule, may_begin)

        return FreezeThaw(rungs, choose)

    def _unknown(self) -> dict[str, Any]:
        choices = self.space.choices().items()
        for _ in range(RANDOM_DRAWS):
            params = {name: values[self.draw.integers(len(values))] for name, values in choices}
            if repr(sorted(self.space.active(params).items())) not in self.known:
                return params
        raise UserError(
            f"--trainings: {self.space.name} has hardly more than {len(self.known)} networks; ask for fewer"
        )


@dataclass
class _Training:
    trial: optuna.Trial
    cost: float
    curve: Array
    epochs: int = 0
