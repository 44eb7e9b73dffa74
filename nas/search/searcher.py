"""StudySearcher: what Ray Tune asks for trials, and what records their results."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from nas.base.files import write_atomically
from nas.base.seeds import keyed_seed
from nas.config.evaluators import TRAINED
from nas.config.sections import ExperimentConfig
from nas.runs.record import MEASURED, TrialRecord, finished_record, write_record
from nas.runs.under_way import attempts, folder_of
from nas.search.cluster.front_weights import FrontWeights
from nas.search.cluster.store import Store
from nas.search.evaluators.donors import nearest
from nas.search.evaluators.filters import Filters
from nas.search.evaluators.rows import of_rows
from nas.search.progress import Progress
from nas.search.rejection import OptimisticBound
from nas.search.running import RunningTrial, is_measurement, measured_on
from nas.search.scheduler import NODE_AWAY, NODE_DIED
from nas.search.stopping import Stopping
from nas.search.stopping.choosing import ranked_curve
from nas.search.study import Proposal, Study
from nas.search.surrogate import InfeasibleSpace
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace
from nas.space.training import key_of

REPEATS_BEFORE_RANDOM = 20
RANDOM_DRAWS = 20_000
INFEASIBLE_IN_A_ROW = 300
DEATHS_IN_A_ROW = 5
NOT_LEARNING = ("random", "qmc", "grid")


def inherits(config: ExperimentConfig) -> bool:
    """Whether trainings start with weights of networks that were trained before."""
    return config.proxy.inherit != "none"


class StudySearcher(Searcher):
    """What Ray Tune asks for trials: proposals of the study, without known architectures, up to the asked number.

    It never has more trials under way than there are places, so with one worker every proposal sees all results.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        space: SearchSpace,
        study: Study,
        run_dir: Path,
        places: int,
        progress: Progress,
        records: Sequence[TrialRecord],
        recovered: list[Proposal],
        stopping: Stopping | None = None,
        store: Store | None = None,
    ):
        """`records` are those with which the study was reconciled: a trial whose process outlived the last driver may
        have written its record since, and is among the recovered ones."""
        super().__init__()
        self.config, self.space, self.study, self.run_dir = config, space, study, run_dir
        self.places, self.progress = places, progress
        self.avoided: list[str] = []
        """IDs of nodes that must not have trials."""
        self.running_trials: dict[str, RunningTrial] = {}
        self.stopping = stopping
        self.waiting: dict[str, RunningTrial] = {}
        """By number: trained to a rung, and not among the best there so far."""
        self.again: list[RunningTrial] = []
        """Handed to a process that was gone before it began: Tune gives such trials up, we do not."""
        self.exhausted = False
        self.num_trained = sum(record.state != "rejected" for record in records)
        self.keys = {record.key for record in records if record.state != "failed" and not record.only_measured}
        """Of networks that are not proposed again; what failed before this driver's time may be."""
        self.num_measured = sum(map(is_measurement, records))
        self.known_costs: dict[str, dict[str, Any]] = {}
        """By key of the network, where it may still be trained."""
        for record in records:
            self._keep_costs(record)
        self.measured_on = next(filter(None, map(measured_on, records)), None)
        """What the latencies of this run were measured on, once there is one."""
        self.complete = [record for record in records if record.state == "complete"]
        self.filters = Filters(config, records, progress.say)
        self.weights = FrontWeights(run_dir, store, progress.say, self._donors if inherits(config) else None)
        self.weights.begin(records, progress.front)
        self.recovered = [proposal for proposal in recovered if not self._waits_again(proposal)]
        self.prepared: Proposal | None = None
        self.pending_tells: list[TrialRecord] = []
        """Finished and recorded; the study hears of them before it is asked again, while the next trial runs."""
        self.infeasible = 0
        self.deaths_in_a_row = 0
        self.impossible: str | None = None
        """Why the search cannot go on, if so."""
        self.hopeless = False
        """Whether not even what is under way can."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running_trials) < self.places and (
            running := self.again.pop(0) if self.again else self._promoted()
        ):
            return self._go_on(trial_id, running)
        if len(self.running_trials) >= self.places or not self._num_left():
            self._tell()
            self._prepare()
            return None if self.running_trials else self._end()
        proposal, self.prepared = self.prepared or self._next(), None
        if proposal is None:
            return self._without_proposal(trial_id)
        genotype = self._genotype(proposal)
        seed = keyed_seed(self.config.search.seed, proposal.number)
        running = RunningTrial(
            proposal, genotype, seed, time.time(), [], only_costs=self._only_costs(proposal, genotype)
        )
        self.keys.add(running.key)
        self.running_trials[trial_id] = running
        task = self._task(running, [] if running.only_costs else self._dominating(proposal))
        task["donor"] = self._donor(running)
        return task if proposal.queued else task | {"compared": self.filters.compared()}

    def _go_on(self, trial_id: str, running: RunningTrial) -> dict[str, Any]:
        self.running_trials[trial_id] = running
        running.starts += 1
        return self._task(running, dominating=[]) | {"donor": self._donor(running)}

    def _without_proposal(self, trial_id: str) -> dict[str, Any] | str | None:
        """Nothing can begin any more, which may be known only now; what waits may go on."""
        if running := self._promoted():
            return self._go_on(trial_id, running)
        self._tell()
        return None if self.running_trials else self._end()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the rows of a trial that may be stopped; a retried one reports those before its checkpoint again."""
        curve = self.running_trials[trial_id].curve
        last = curve[-1]["epoch"] if curve else 0
        curve += [row for row in result.get("rows", []) if row["epoch"] > last]

    def on_trial_error(self, trial_id: str, cause: str) -> bool:
        """A process died with a trial; whether the trial is to be given up, and not started again.

        That a whole node died, or cannot be reached, which comes first, is no fault of a network and of no setting:
        its trials are started elsewhere.
        """
        running = self.running_trials[trial_id]
        running.cause, running.starts = cause, running.starts + 1
        if NODE_DIED in cause or NODE_AWAY in cause:
            return False
        running.deaths += 1
        self.deaths_in_a_row += 1
        if self.deaths_in_a_row >= DEATHS_IN_A_ROW:
            self.hopeless = True
            self.impossible = (
                f"{self.deaths_in_a_row} processes of trials died one after the other and no trial came to its end, "
                f"the last: {cause}"
            )
        return running.deaths > self.config.resources.max_retries

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and not error:
            self.on_trial_result(trial_id, result)  # Tune leaves out the report at which it stops a trial
        running = self.running_trials.pop(trial_id)
        if result and "host_error" in result and not error:  # it stays under way, for the next driver
            self.hopeless, self.impossible = True, result["host_error"]
            return
        if result and "record" in result and not error:
            record = TrialRecord.from_json(result["record"])
            if result.get("trace"):
                folder = folder_of(running.kept_in(self.run_dir), record.number)
                write_atomically(folder / "traceback.txt", result["trace"])
        elif written := finished_record(running.kept_in(self.run_dir), running.proposal.number, running.key):
            record = written  # and the process died before telling
        elif self.hopeless:  # it stays under way, for the next driver
            return
        elif error and running.deaths <= self.config.resources.max_retries:
            running.starts -= 1  # counted once more when it is handed out
            self.again.append(running)
            return
        elif error or running.deaths > self.config.resources.max_retries:
            cause = f"process died: {running.deaths} times, the last: {running.cause}"
            state, cause = ("rejected", f"{MEASURED}: {cause}") if running.only_costs else ("failed", cause)
            record = replace(running.recorded(state, cause), attempts=running.deaths)
        else:
            record = self._stopped(running)
            if self.stopping is not None and self.stopping.pauses:
                self.deaths_in_a_row = 0
                self._wait(running, record)
                return
        if running.deaths <= self.config.resources.max_retries:
            self.deaths_in_a_row = 0
        self._finish(self._comparable(record))

    def _comparable(self, record: TrialRecord) -> TrialRecord:
        """The record, or a failed one in its place where its latency is that of another device than the others'."""
        device = measured_on(record)
        if record.state != "complete" or device is None or device == (self.measured_on or device):
            self.measured_on = self.measured_on or (device if record.state == "complete" else None)
            return record
        error = f"unlike device: its latency was measured on {device}, those of this run on {self.measured_on}"
        return replace(record, state="failed", objectives={}, error=error)

    def num_held_back(self) -> int:
        """Trainings that would begin now if there were places."""
        return max(0, self._num_left()) if len(self.running_trials) >= self.places else 0

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study and the records are the state."""

    def _num_left(self) -> int:
        """How many trainings may still begin."""
        return (
            self.config.search.num_trials
            - self.num_trained
            - sum(not running.only_costs for running in self.running_trials.values())
            - len(self.waiting)
            - len(self.again)
        )

    def _wait(self, running: RunningTrial, record: TrialRecord) -> None:
        """Keep a trial that may be promoted, with what the next life of a killed driver needs of it."""
        kept = {
            "key": record.key,
            "began": running.began,
            "seed": running.seed,
            "curve": running.curve,
            "starts": running.starts,
        }
        write_atomically(self._kept(running.proposal, "waiting"), json.dumps(kept))
        self._kept(running.proposal, "promoted").unlink(missing_ok=True)
        self.waiting[str(record.number)] = running
        self.infeasible = 0
        self.study.note(record)
        self.progress.waits(record, len(self.waiting))

    def _waits_again(self, proposal: Proposal) -> bool:
        """Take up the rank of a trial that had come to a rung when the driver was killed; whether it waits there."""
        genotype = self._genotype(proposal)
        for waits, path in ((True, self._kept(proposal, "waiting")), (False, self._kept(proposal, "promoted"))):
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if self.stopping is None or kept.pop("key", None) != key_of(genotype, proposal.params):
                continue
            running = RunningTrial(proposal, genotype, **kept)
            record = self._stopped(running)
            self.stopping.enter(str(proposal.number), ranked_curve(record, self.config.objectives), waits)
            self.study.note(record)
            if waits:
                self.waiting[str(proposal.number)] = running
                self.keys.add(running.key)
            return waits
        return False

    def _kept(self, proposal: Proposal, state: str) -> Path:
        return self.run_dir / "checkpoints" / str(proposal.number) / f"{state}.json"

    def _promoted(self) -> RunningTrial | None:
        """A waiting trial that may go on."""
        if self.stopping is not None:
            self._tell()  # it may decide by what the study knows
        may_begin = self._num_left() > 0 and not self.exhausted
        while self.stopping and (name := self.stopping.promote(may_begin)) is not None:
            if name in self.waiting:
                running = self.waiting.pop(name)
                self._kept(running.proposal, "waiting").rename(self._kept(running.proposal, "promoted"))
                self.progress.num_waiting = len(self.waiting)
                return running
        return None

    def _end(self) -> str:
        """No place is taken, and nothing is left to begin or to go on with: what waits has stopped."""
        while self.waiting:
            self._finish(self._stopped(self.waiting.pop(next(iter(self.waiting)))))
        self._tell()
        return Searcher.FINISHED

    def _stopped(self, running: RunningTrial) -> TrialRecord:
        record = running.recorded("stopped", None)
        last = running.curve[-1] if running.curve else {}
        names = [objective.name for objective in self.config.objectives if not objective.maximize]
        return replace(
            record,
            evaluations=of_rows(self.config.evaluators, running.curve),
            costs={name: last[name] for name in names if name in last},
            seconds=sum(row["seconds"] for row in running.curve),
            attempts=len(attempts(self.run_dir, record.number, record.key)) or running.starts,
        )

    def _task(self, running: RunningTrial, dominating: list[dict[str, float]]) -> dict[str, Any]:
        """A trial as plain data for its worker."""
        return {
            "number": running.proposal.number,
            "genotype": running.genotype.to_json(),
            "params": running.proposal.params,
            "seed": running.seed,
            "dominating": dominating,
            "costs": self.known_costs.get(running.genotype.key, {}),
            "only_costs": running.only_costs,
            "compared": {},
            "donor": None,
            "avoided": self.avoided,
        }

    def _donor(self, running: RunningTrial) -> dict[str, Any] | None:
        """What a training inherits from, as plain data; its weights stay as long as the trial is under way."""
        if not inherits(self.config) or running.only_costs:
            return None
        members = [record for record in self.progress.front if self.weights.has(record.key)]
        found = nearest(running.genotype, members)
        if found is None:
            return None
        running.donor = found.key
        return {"number": found.number, "key": found.key, "genotype": json.dumps(found.genotype)}

    def _donors(self) -> set[str]:
        """Keys of networks that trials under way inherit from."""
        under_way = [*self.running_trials.values(), *self.again, *self.waiting.values()]
        return {running.donor for running in under_way if running.donor is not None}

    def _only_costs(self, proposal: Proposal, genotype: Genotype) -> bool:
        """Whether a new trial is one of those that are only measured; what was queued is trained."""
        under_way = sum(running.only_costs for running in self.running_trials.values())
        left = self.study.num_measured_first - self.num_measured - under_way
        return left > 0 and not proposal.queued and genotype.key not in self.known_costs

    def _prepare(self) -> None:
        """While all places train, find the proposal that the next free one will take; alone, it would miss a result."""
        if self.prepared is None and self.places > 1 and self._num_left() > 0:
            self.prepared = self._next()

    def _dominating(self, proposal: Proposal) -> list[dict[str, float]]:
        """The trials that would dominate a candidate that costs no less than they do."""
        search = self.config.search
        expensive = any(objective.name in TRAINED for objective in self.config.objectives)
        if search.optimism is None or search.sampler in NOT_LEARNING or not expensive or not proposal.params:
            return []
        bound = OptimisticBound(self.space, self.complete, search.optimism)
        return bound.dominating(proposal.params, self.config.objectives)

    def _next(self) -> Proposal | None:
        """The next trial to run: a recovered one, else a new architecture; None when there is no more."""
        while self.recovered:
            proposal = self.recovered.pop(0)
            genotype = self._genotype(proposal)
            if key_of(genotype, proposal.params) not in self.keys:
                return proposal
            self._reject(proposal, genotype)  # a repeat, and the driver was killed before it said so
        repeats = 0
        while not self.exhausted:
            self._tell()
            try:
                proposal = self.study.ask()
            except InfeasibleSpace as reason:
                self.impossible, self.exhausted = str(reason), True
                break
            genotype = self._genotype(proposal)
            if key_of(genotype, proposal.params) not in self.keys:
                return proposal
            self._reject(proposal, genotype)
            repeats += 1
            if repeats % REPEATS_BEFORE_RANDOM == 0:
                self._queue_unknown(proposal.number)
        return None

    def _queue_unknown(self, number: int) -> None:
        """Queue a random point that was not seen, where the sampler keeps proposing known ones."""
        draw = random.Random(keyed_seed(self.config.search.seed, "unknown", number))
        choices = self.space.choices()
        points: Iterable[Sequence]
        if math.prod(map(len, choices.values())) <= RANDOM_DRAWS:
            points = list(itertools.product(*choices.values()))
            draw.shuffle(points)
        else:
            points = ([draw.choice(values) for values in choices.values()] for _ in range(RANDOM_DRAWS))
        for point in points:
            params = dict(zip(choices, point, strict=True))
            if key_of(self.space.decode(params), params) not in self.keys:
                self.study.enqueue(f"unknown after {number}", params)
                return
        self.exhausted = True
        if not any(running.only_costs for running in self.running_trials.values()):  # which may be trained after that
            self.progress.say("the search space has no further architecture to train")

    def _genotype(self, proposal: Proposal) -> Genotype:
        return Genotype.from_json(proposal.genotype) if proposal.genotype else self.space.decode(proposal.params)

    def _reject(self, proposal: Proposal, genotype: Genotype) -> None:
        running = RunningTrial(proposal, genotype, 0, time.time(), [])
        self._finish(running.recorded("rejected", f"known: {running.key} was proposed before"))

    def _finish(self, record: TrialRecord) -> None:
        """Record first, tell later: a crash between the two is mended by `Study.reconcile`."""
        if finished_record(self.run_dir, record.number, record.key) is None:
            write_record(self.run_dir, record)
        self.pending_tells.append(record)
        if self.stopping is not None:  # a record that was there before its process could report has not been ranked
            self.stopping.enter(str(record.number), ranked_curve(record, self.config.objectives))
        if record.state == "complete":
            self.complete.append(record)
        if record.only_measured:
            self.keys.discard(record.key)
            self.exhausted = self.impossible is not None
        self._keep_costs(record)
        self.filters.add(record)
        self.num_measured += is_measurement(record)
        self._note_infeasible(record)
        self.num_trained += record.state != "rejected"
        before = self.progress.front
        self.progress.finished(record)
        self.weights.finished(record, before, self.progress.front)

    def _keep_costs(self, record: TrialRecord) -> None:
        """Of a network that may still be trained, or trained otherwise: it is not measured twice."""
        if record.only_measured or (self.space.training and record.state == "complete"):
            self.known_costs[Genotype.from_dict(record.genotype).key] = record.costs

    def _tell(self) -> None:
        while self.pending_tells:
            self.study.tell(self.pending_tells[0])
            del self.pending_tells[0]

    def _note_infeasible(self, record: TrialRecord) -> None:
        """Give up where nothing but broken constraints comes."""
        broken = record.state == "rejected" and (record.error or "").startswith("constraint: ")
        known = record.state == "rejected" and (record.error or "").startswith("known: ")
        self.infeasible += broken
        if not broken and not known:
            self.infeasible = 0
        if self.infeasible >= INFEASIBLE_IN_A_ROW and not self.exhausted:
            self.exhausted = True
            self.impossible = (
                f"constraints: {self.infeasible} candidates in a row broke them, the last: {record.error}; wider "
                "limits or smaller networks may help"
            )
