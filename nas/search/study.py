"""The Optuna study of a run: proposals, results, and its reconciliation with the trial records."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from nas.base.errors import MachineError
from nas.config.evaluators import FIGURES, trained_value
from nas.config.sections import FREE_COSTS, ExperimentConfig
from nas.runs.record import TrialRecord
from nas.runs.under_way import UnderWay
from nas.search.refill import refill, reopen
from nas.search.samplers import distributions_of, make_sampler
from nas.search.storage import lock_on_file, lock_on_server, open_storage, retrying
from nas.search.surrogate import SurrogateSampler
from nas.search.surrogate.freeze_thaw import Schedule
from nas.search.surrogate.knowledge import InfeasibleSpace, Knowledge, Known, nothing
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

FEW_MEASURED = 8
TRAINED = ("complete", "stopped", "failed")
# states of trials that never had a network, and so no record
NOTHING, MISFIT = "nothing to propose", "not of this space"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """Parameters under a trial number; a warm start from outside the space brings its genotype as JSON instead."""

    number: int
    params: dict[str, Any]
    genotype: str | None = None
    queued: bool = field(default=False, compare=False)
    """Whether it was asked for, and is none of the sampler's."""


class Study:
    """One Optuna study, plain enough for optuna-dashboard; the records stay the source of truth.

    Trials that did not train to the end are told FAIL, with their state as an attribute: values of a shorter training
    would mislead the sampler, and an unfinished trial must not stay RUNNING. Where accuracy is all that is asked for,
    stopped ones are told PRUNED with their curve, which TPE ranks behind complete ones, by the epochs that they have;
    of several objectives no sampler of Optuna's can use them.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        space: SearchSpace,
        url: str,
        name: str,
        known: Known | None = None,
        owner: str | None = None,
        again: Sequence[int] = (),
        estimated: Known | None = None,
        repeats: Mapping[int, Sequence[float]] | None = None,
    ):
        """`known` gives the costs of parameters that need no measurement, for a sampler that can use them, `estimated`
        others roughly; `repeats` has the accuracies of trials that were trained again; `owner` is the id of the run;
        `again` are the numbers of finished trials that are to be run once more. Raises Locked where another driver
        holds the study."""
        self.config = config
        self.distributions: dict[str, BaseDistribution] = distributions_of(space)
        self.choices = space.choices()
        infinity = float("inf")
        self.knowledge = Knowledge(
            names=[objective.name for objective in config.objectives],
            known=known or nothing,
            estimated=estimated or nothing,
            repeats={config.trained: repeats or {}},
            active=space.active,
            limits={
                name: (-infinity if bound.min is None else bound.min, infinity if bound.max is None else bound.max)
                for name, bound in config.constraints.items()
            },
            reference={**config.search.reference},
        )
        logging.getLogger("optuna").setLevel(logging.ERROR)
        storage = open_storage(url)
        self._engine = storage.engine
        self._server = storage.engine if storage.engine.dialect.name == "postgresql" else None
        self._lock: Connection | None = None
        self._file_lock = lock_on_file(url, name) if config.search.storage else None  # else the run's lock is enough
        self._hold(name)
        self.owner = owner
        self.study = retrying(lambda: self._open(storage, name))
        if again:
            retrying(lambda: reopen(self._engine, self.study._study_id, again))
        self._handed_out: set[int] = set()
        self._may_be_left = True
        self._made = not retrying(lambda: self.study.get_trials(deepcopy=False))

    @property
    def num_measured_first(self) -> int:
        """Networks whose costs are measured before the first training: few where all are roughly known, which is
        corrected by what these have."""
        config = self.config
        asked = {*config.constraints, *(objective.name for objective in config.objectives)} - {*FIGURES, *FREE_COSTS}
        if config.search.measured_first is None and asked <= self.estimated:
            return min(config.num_measured_first, FEW_MEASURED)
        return config.num_measured_first

    @property
    def estimated(self) -> set[str]:
        """The costs that are roughly known before they are measured."""
        return {*self.knowledge.estimated({name: values[0] for name, values in self.choices.items()})}

    def __getstate__(self) -> dict[str, Any]:
        """Without what holds the study: Ray Tune pickles its searcher, though nobody opens the copy."""
        return vars(self) | {"_lock": None, "_file_lock": None, "_server": None, "_engine": None}

    def _hold(self, name: str) -> None:
        """On PostgreSQL, have the study for this driver; taken again where the server was restarted in between."""
        if self._server is None:
            return
        try:
            if self._lock is not None:
                self._lock.execute(text("select 1"))
                return
        except SQLAlchemyError:
            pass
        server = self._server
        self._lock = retrying(lambda: lock_on_server(server, name))

    def _open(self, storage: RDBStorage, name: str) -> optuna.Study:
        directions = [
            StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in self.config.objectives
        ]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective.name for objective in self.config.objectives])
        return study

    def reconcile(
        self, records: Iterable[TrialRecord], under_way: Mapping[int, UnderWay] | None = None
    ) -> list[Proposal]:
        """Bring the study level with the records; returns what was proposed but never finished, to be run again.

        A trial of the study that has a record is told; one without is recovered under its number and parameters; one
        that has not all parameters yet is left to `ask`. Where the study lost trials that have records or are
        `under_way` (a deleted study.db, another storage, a run under another name), it is filled from these. Raises
        MachineError for a study that another run filled.
        """
        by_number = {record.number: record for record in records}
        trials = retrying(lambda: self.study.get_trials(deepcopy=False))
        self._check_owner(trials, by_number)
        if self.owner is not None:
            retrying(lambda: self.study.set_user_attr("run", self.owner))
        begun = {number: trial for number, trial in (under_way or {}).items() if number not in by_number}
        lost = range(len(trials), max([*by_number, *begun], default=-1) + 1)
        if lost:
            restored = [self._frozen(by_number.get(number), begun.get(number)) for number in lost]
            retrying(lambda: refill(self._engine, self.study._study_id, lost.start, restored))
        running = [t for t in retrying(lambda: self.study.get_trials(deepcopy=False)) if t.state == TrialState.RUNNING]
        recovered = [proposal for trial in running if (proposal := self._recover(trial, by_number.get(trial.number)))]
        self._handed_out.update(proposal.number for proposal in recovered)
        return recovered

    def _check_owner(self, trials: Sequence[FrozenTrial], records: Mapping[int, TrialRecord]) -> None:
        """Raise MachineError where another run filled the study: its trials are not those of the records."""
        told = {
            trial.number: trial.user_attrs.get("key")
            for trial in trials
            if trial.state.is_finished() and trial.user_attrs.get("state") not in (NOTHING, MISFIT)
        }
        others = any(number in records and key not in (None, records[number].key) for number, key in told.items())
        stranger = self.owner is not None and self.study.user_attrs.get("run") not in (None, self.owner)
        if others or (told and not records) or (stranger and trials and not records.keys() & told.keys()):
            raise MachineError(
                f"search.storage: has a study {self.study.study_name!r} whose trials this run has no records of; "
                "choose another --name or storage"
            )

    def _recover(self, trial: FrozenTrial, record: TrialRecord | None) -> Proposal | None:
        """Tell a running trial that has a record; else what is to be run again of it, if anything."""
        if record is not None:
            self.tell(record)
        elif set(trial.params) == set(self.distributions) or "genotype" in trial.user_attrs:
            if not (reason := self._misfit(trial)):
                return _proposal(trial)
            self._give_up(trial, MISFIT, reason)
        return None

    def withdraw(self) -> None:
        """Remove the study if it began with this driver and no trial of it was trained: the start was refused."""
        trials = retrying(lambda: self.study.get_trials(deepcopy=False))
        if self._made and not any(trial.user_attrs.get("state") in TRAINED for trial in trials):
            retrying(lambda: optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage))

    def enqueue(self, name: str, params: dict[str, Any], genotype: str | None = None) -> None:
        """Queue a warm start to be proposed first; one that was queued or proposed before adds nothing."""
        trials = retrying(lambda: self.study.get_trials(deepcopy=False))
        queued = any(
            trial.user_attrs.get("warm_start") == name or (params and trial.params == params) for trial in trials
        )
        if not queued:
            attributes = {"warm_start": name} | ({"genotype": genotype} if genotype else {})
            retrying(lambda: self.study.enqueue_trial(params, user_attrs=attributes))

    def ask(self) -> Proposal:
        """The next proposal: an enqueued one if there is one, else the sampler's.

        A trial that was begun and has not all parameters, because its driver died or its storage went away, comes
        first, and becomes what it would have become. What was queued from outside and is no network of this space has
        failed, with its reason; so has a trial where the sampler raises InfeasibleSpace.
        """
        self._hold(self.study.study_name)
        trial, was_left = retrying(self._begin)
        while reason := self._misfit(trial):
            self._give_up(trial, MISFIT, reason)
            trial, was_left = retrying(self._begin)
        try:
            params = retrying(lambda: self._draw(trial))
        except InfeasibleSpace as reason:
            self._give_up(trial, NOTHING, str(reason))
            raise
        self._handed_out.add(trial.number)
        self._may_be_left = was_left
        genotype = trial.user_attrs.get("genotype")
        return Proposal(trial.number, {} if genotype else params, genotype, _is_queued(trial))

    def thaw(self, schedule: Schedule, waiting: Mapping[int, int], may_begin: bool) -> int | None:
        """Which of the waiting numbers, that have so many epochs, is worth more than what would be proposed next; None
        where none is. What was queued comes first."""
        assert self.config.search.sampler == "surrogate"
        trials = retrying(lambda: self.study.get_trials(deepcopy=False))
        if may_begin and any(trial.state == TrialState.WAITING for trial in trials):
            return None
        try:
            return retrying(
                lambda: self._surrogate(len(trials)).thaw(self.study, len(trials), waiting, schedule, may_begin)
            )
        except InfeasibleSpace:  # nothing is left to begin
            return self.thaw(schedule, waiting, False) if may_begin else None

    def _surrogate(self, number: int) -> SurrogateSampler:
        sampler = self._sampler(number)
        assert isinstance(sampler, SurrogateSampler)
        return sampler

    def _sampler(self, number: int) -> BaseSampler:
        search = self.config.search
        return make_sampler(search.sampler, search.seed, number, self.distributions, self.knowledge)

    def _begin(self) -> tuple[FrozenTrial, bool]:
        """A running trial that nobody works on: one left behind, else a new one; and whether it was left.

        All running trials are read only where one may be left: of a hundred that takes a tenth of a second.
        """
        if self._may_be_left:
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            ours = [
                trial for trial in running if trial.params.keys() <= self.distributions.keys()
            ]  # no other program's
            left = [trial for trial in ours if trial.number not in self._handed_out]
            if left:
                return left[0], True
        self._may_be_left = True  # until this one is handed out
        self.study.sampler = RandomSampler(seed=0)  # draws nothing here; others would mark the trial as theirs
        return self._trial(self.study.ask().number), False

    def _trial(self, number: int) -> FrozenTrial:
        """One trial, without reading all that run."""
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def _draw(self, trial: FrozenTrial) -> dict[str, Any]:
        """Draw the parameters that a trial lacks, to the same values however often this was interrupted."""
        self.study.sampler = sampler = self._sampler(trial.number)
        handle = optuna.trial.Trial(self.study, trial._trial_id)
        there, fixed = set(handle.params), trial.system_attrs.get("fixed_params", {})
        for name, distribution in self.distributions.items():
            if name not in there:
                handle._suggest(name, distribution)
            elif not (name in fixed or distribution.single() or name in handle.relative_params):
                sampler.sample_independent(self.study, trial, name, distribution)  # as often as at the first time
        return dict(handle.params)

    def _misfit(self, trial: FrozenTrial) -> str | None:
        """Why a trial that was queued from outside, by `optuna.Study.enqueue_trial`, is no network of this space."""
        if (genotype := trial.user_attrs.get("genotype")) is not None:
            try:
                Genotype.from_json(str(genotype))
            except ValueError as error:
                return f"genotype: {error}"
            return None
        for name, value in {**trial.system_attrs.get("fixed_params", {}), **trial.params}.items():
            if name not in self.choices:
                return f"{name}: the space has no such parameter; it has {', '.join(self.choices)}"
            if not any(value == choice and type(value) is type(choice) for choice in self.choices[name]):
                return f"{name}: {value!r} is not offered; allowed are {', '.join(map(repr, self.choices[name]))}"
        return None

    def _give_up(self, trial: FrozenTrial, state: str, reason: str) -> None:
        """Tell that a trial failed before it had a network."""
        if state == MISFIT:
            log.warning("trial %d was queued from outside and is left out: %s", trial.number, reason)
        self._attribute(trial, {"state": state, "error": reason})
        retrying(lambda: self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True))

    def note(self, record: TrialRecord) -> None:
        """Keep costs and curve of a trial that waits: the sampler learns from them, though it may still go on."""
        trial = retrying(lambda: self._trial(record.number))
        attributes = _attributes(record)
        self._attribute(trial, {name: attributes[name] for name in ("costs", "curve") if name in attributes})

    def _attribute(self, trial: FrozenTrial, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            retrying(partial(self.study._storage.set_trial_user_attr, trial._trial_id, name, value))

    def tell(self, record: TrialRecord) -> None:
        """Tell a finished trial, any number of times."""
        trial = retrying(lambda: self._trial(record.number))
        if trial.state.is_finished():
            return
        self._attribute(trial, _attributes(record))
        # without parameters (a warm start from outside the space) there is nothing for a sampler to learn from
        state = self._state(record) if record.params else TrialState.FAIL
        values = (
            [record.objectives[objective.name] for objective in self.config.objectives]
            if state == TrialState.COMPLETE
            else None
        )
        if state == TrialState.PRUNED:
            for epoch, value in _accuracy_by_epoch(record).items():
                retrying(partial(self.study._storage.set_trial_intermediate_value, trial._trial_id, epoch, value))
        retrying(lambda: self.study.tell(record.number, values, state, skip_if_finished=True))

    def _state(self, record: TrialRecord) -> TrialState:
        """What a trial is told as, if it has parameters."""
        if record.state == "complete":
            return TrialState.COMPLETE
        of_one = [objective.name for objective in self.config.objectives] == [self.config.trained]
        return TrialState.PRUNED if of_one and record.state == "stopped" and record.curve else TrialState.FAIL

    def _frozen(self, record: TrialRecord | None, begun: UnderWay | None) -> FrozenTrial:
        """A trial that the study lost, from its record or under way; a failed one in the place of what has neither."""
        source = record or begun
        whole = source is not None and set(source.params) == set(self.distributions)
        drawn: dict[str, Any] = (
            {"params": source.params, "distributions": self.distributions} if source and whole else {}
        )
        if record is None and begun is not None and (whole or not begun.params):
            outside = {} if whole else {"genotype": begun.genotype.to_json()}
            return optuna.create_trial(state=TrialState.RUNNING, user_attrs=outside, **drawn)
        state = self._state(record) if record and whole else TrialState.FAIL
        steps = _accuracy_by_epoch(record) if record and state == TrialState.PRUNED else {}
        values = (
            [record.objectives[o.name] for o in self.config.objectives]
            if record and state == TrialState.COMPLETE
            else None
        )
        return optuna.create_trial(
            state=state,
            values=values or [*steps.values()][-1:] or None,
            intermediate_values=steps,
            user_attrs=_attributes(record),
            **drawn,
        )


def _accuracy_by_epoch(record: TrialRecord) -> dict[int, float]:
    """What its training said after each epoch."""
    return {int(row["epoch"]): float(value) for row in record.curve if (value := trained_value(row)) is not None}


def _attributes(record: TrialRecord | None) -> dict[str, str]:
    """What the study keeps of a record for its readers; costs and curve for the sampler that learns from them."""
    if record is None:
        return {}
    costs = {name: value for name, value in record.costs.items() if isinstance(value, int | float)}
    curve = [[epoch, round(value, 6)] for epoch, value in _accuracy_by_epoch(record).items()]
    pairs = {"key": record.key, "state": record.state, "error": record.error}
    found = {name: value for name, value in pairs.items() if value is not None}
    if record.only_measured:
        found["costs_only"] = "true"
    if record.evaluations:
        found["evaluations"] = json.dumps(record.evaluations)
    return found | ({"costs": json.dumps(costs)} if costs else {}) | ({"curve": json.dumps(curve)} if curve else {})


def _proposal(trial: optuna.trial.FrozenTrial) -> Proposal:
    genotype = trial.user_attrs.get("genotype")
    return Proposal(trial.number, {} if genotype else dict(trial.params), genotype, _is_queued(trial))


def _is_queued(trial: FrozenTrial) -> bool:
    return "genotype" in trial.user_attrs or "fixed_params" in trial.system_attrs
