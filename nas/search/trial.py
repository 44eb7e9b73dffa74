"""run_trial: one genotype built, measured, trained, recorded. Knows neither Ray nor Optuna."""

from __future__ import annotations

import json
import math
import shutil
import socket
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nas.base.errors import host_error
from nas.base.files import write_atomically
from nas.base.locks import byte_lock
from nas.config.sections import FREE_COSTS, Bound, ObjectiveConfig
from nas.measure.cost import measure
from nas.measure.latency import device_name
from nas.networks.task import build_measured
from nas.runs.folder import shared_cache
from nas.runs.noise.replicates import REPLICATES, replicate_dir
from nas.runs.record import MEASURED, TrialRecord, finished_record, write_record
from nas.runs.under_way import UnderWay, folder_of, note_attempt
from nas.search.evaluators.context import Candidate, TrialContext, device_lock
from nas.search.evaluators.evaluation import Rejected, check_passed, filtered, judged
from nas.search.evaluators.rows import in_row
from nas.space.genotype import Genotype
from nas.space.training import key_of
from nas.training.process_state import keep_compiled_kernels, reset_process

ORPHAN_SECONDS = 60.0


@dataclass(frozen=True)
class TrialTask:
    """What a trial is asked to do."""

    number: int
    genotype: Genotype
    params: dict[str, Any]
    seed: int
    dominating: Sequence[Mapping[str, float]] = ()
    """Trials that are at least as accurate as this one may be granted: their objectives, `number` and `granted`."""
    costs: Mapping[str, Any] = field(default_factory=dict)
    """What was measured on this network before."""
    compared: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    """By name of a filter that rejects: what it said of other networks as `score`, beside the costs of each."""
    only_costs: bool = False
    """Not to be trained: what it costs is what is asked for."""
    donor: Mapping[str, Any] | None = None
    """The trained network that a training is to inherit from: its `number`, `key` and `genotype`, as JSON."""
    replicate_of: int | None = None
    """Of a replicate: the trial that is trained again; `number` counts its replicates, from 1."""

    @property
    def key(self) -> str:
        return key_of(self.genotype, self.params)

    @property
    def name(self) -> str:
        """What it is called in the store."""
        return str(self.number) if self.replicate_of is None else f"{REPLICATES}/{self.replicate_of}/{self.number}"

    def kept_in(self, run_dir: Path) -> Path:
        """The folder that its record and its checkpoint lie in."""
        return run_dir if self.replicate_of is None else replicate_dir(run_dir, self.replicate_of)


def run_trial(task: TrialTask, context: TrialContext) -> Generator[dict[str, Any], None, None]:
    """Run one trial; yields a row per epoch (with the known objectives), and at last {"record": TrialRecord}.

    The record is on disk before it is yielded. Started again after a crash, the trial goes on from its checkpoint and
    keeps the costs that it had measured; a trial that has its record already only yields that. Whatever the network
    does wrong ends as a record with the state failed and its reason. What the host does, such as a full disk, is
    raised, as OSError or HostError: nothing is recorded, and the trial can go on later.
    """
    run_dir = task.kept_in(context.run_dir)
    folder = folder_of(run_dir, task.number)
    # what is left of a killed driver's worker may still be running it for some seconds
    with byte_lock(run_dir / "locks" / "trials", task.number, ORPHAN_SECONDS, f"trial {task.number}"):
        finished = finished_record(run_dir, task.number, task.key)
        if finished is not None:
            yield {"record": finished}
            return
        if context.store is not None:
            context.store.fetch(task.name, folder)
        attempts = note_attempt(run_dir, UnderWay(task.number, task.genotype, task.params))
        clock = _Clock()
        curve: list[dict[str, float]] = []
        costs: dict[str, Any] = {}
        evaluations: list[dict[str, Any]] = []
        objectives: dict[str, float] = {}
        state, error = "complete", None
        names = [objective.name for objective in context.config.objectives if not objective.maximize]
        try:
            for row in _judge(task, context, folder, clock, costs, evaluations):
                curve.append(row)
                yield row | {name: costs[name] for name in names} | in_row(evaluations)
            objectives = _objectives(context.config.objectives, costs, evaluations[-1])
        except Rejected as reason:
            state, error = "rejected", str(reason)
        except GeneratorExit:  # it waits, or has stopped: what it saved is all that is needed of it
            if context.store is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as problem:  # a network that fails is a result; the search goes on
            if host_error(problem):
                raise
            state, error = "failed", _reason(problem)
            if task.only_costs:  # what cannot be measured is no lost training
                state, error = "rejected", f"{MEASURED}: {error}"
            write_atomically(folder / "traceback.txt", traceback.format_exc())
        record = TrialRecord(
            number=task.number,
            key=task.key,
            state=state,
            genotype=task.genotype.to_dict(),
            params=task.params,
            seed=task.seed,
            objectives=objectives,
            costs=costs,
            evaluations=evaluations,
            curve=curve,
            seconds=clock.total(),
            timings=clock.phases | {"wait": clock.total() - sum(clock.phases.values())},
            error=error,
            attempts=len(attempts),
            started=attempts[0],
            finished=time.time(),
            host=socket.gethostname(),
            device=device_name(context.device),
            num_validation=len(context.dataset().validation) if curve and context.config.trained == "top1" else 0,
            replicate_of=task.replicate_of,
        )
        write_record(run_dir, record)
        if context.store is not None:
            context.store.drop(task.name)
        if state != "failed":
            shutil.rmtree(folder, ignore_errors=True)
        yield {"record": record}


def _judge(
    task: TrialTask,
    context: TrialContext,
    folder: Path,
    clock: _Clock,
    costs: dict[str, Any],
    evaluations: list[dict[str, Any]],
) -> Iterator[dict[str, float]]:
    """Build, measure, check the constraints, let all evaluators judge; fills `costs` and `evaluations` as they become
    known."""
    config, proxy = context.config, context.config.proxy.chosen(task.params)
    keep_compiled_kernels(shared_cache(context.run_dir))
    reset_process(task.seed, num_threads=context.num_threads)
    with clock.phase("data"):
        dataset = context.dataset()
    with clock.phase("build"):
        sizes = (dataset.num_classes, dataset.in_channels, proxy.resolution)
        model = build_measured(task.genotype, *sizes, proxy.drop_path)
    with clock.phase("cost"):
        shape = (dataset.in_channels, proxy.resolution, proxy.resolution)
        costs.update(task.costs)
        _measure(model, shape, task.key, context, folder, costs)
        del model  # an evaluator begins with a network that nobody has used
        if task.only_costs:
            raise Rejected(f"{MEASURED}: before the first training, for its costs alone")
        check_dominated(task.dominating, config.objectives, costs)
    stages = config.evaluators if task.replicate_of is None else config.evaluators[-1:]
    for stage in stages:
        candidate = Candidate(
            *(task.genotype, task.key, task.seed, stage, proxy, context, folder, task.name),
            is_replicate=task.replicate_of is not None,
            donor=task.donor,
        )
        if stage is stages[-1]:
            yield from judged(candidate, clock, evaluations)
        else:
            evaluations.append(filtered(candidate, clock, costs, task.compared.get(stage.name, ())))
            check_passed(evaluations[-1])


def _measure(
    model: torch.nn.Module,
    shape: tuple[int, int, int],
    key: str,
    context: TrialContext,
    folder: Path,
    costs: dict[str, Any],
) -> None:
    """Every cost that an objective or a constraint names, the free ones first; kept in `folder` for a later attempt.

    Raises Rejected as soon as a constraint is broken.
    """
    config, kept = context.config, folder / "costs.json"
    costs.update(_kept_costs(kept, key))
    asked = {objective.name: objective for objective in config.objectives if not objective.maximize}
    for names in (FREE_COSTS, [name for name in [*asked, *config.constraints] if name not in FREE_COSTS]):
        unknown = [name for name in dict.fromkeys(names) if name not in costs]
        wanted = [asked.get(name) or ObjectiveConfig.model_validate({"name": name}) for name in unknown]
        costs.update(measure(model, shape, wanted, context.device, lambda device: device_lock(device).exclusive()))
        check_constraints(config.constraints, costs)
    write_atomically(kept, json.dumps({"key": key, "costs": costs}))


def _kept_costs(path: Path, key: str) -> dict[str, Any]:
    """What an earlier attempt measured on the network with that key; what is no such file is measured anew."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return dict(kept["costs"]) if kept["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_constraints(constraints: Mapping[Any, Bound], costs: dict[str, Any]) -> None:
    """Raise Rejected for the first cost, of those known so far, outside its bounds."""
    for name, bound in constraints.items():
        if name not in costs:
            continue
        value = costs[name]
        if bound.max is not None and value > bound.max:
            raise Rejected(f"constraint: {name} {value:g} is above {bound.max:g}")
        if bound.min is not None and value < bound.min:
            raise Rejected(f"constraint: {name} {value:g} is below {bound.min:g}")


def check_dominated(
    dominating: Sequence[Mapping[str, float]], objectives: Sequence[ObjectiveConfig], costs: Mapping[str, Any]
) -> None:
    """Raise Rejected where another trial is better even if the training gives all that it is granted."""
    names = [objective.name for objective in objectives if not objective.maximize]
    figure = next((objective.name for objective in objectives if objective.maximize), "")
    for other in dominating:
        if all(other[name] <= costs[name] for name in names):
            raise Rejected(
                f"dominated: granted {figure} {other['granted']:.4f}; trial {other['number']:.0f} has "
                f"{other[figure]:.4f} and costs no more"
            )


def _objectives(
    objectives: list[ObjectiveConfig], costs: Mapping[str, Any], last: Mapping[str, Any]
) -> dict[str, float]:
    """`last` is the evaluation that counts."""
    known = {**costs, **last["figures"]}
    values = {objective.name: float(known.get(objective.name, math.nan)) for objective in objectives}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ArithmeticError(f"objective {name} is {value}")
    return values


def _reason(problem: Exception) -> str:
    """`kind: message` in one line, so that failures can be counted by kind."""
    lines = str(problem).strip().splitlines()
    exhausted = isinstance(problem, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(problem)
    kind = "out of memory" if exhausted else type(problem).__name__
    return f"{kind}: {lines[0][:300] if lines else 'no message'}"


class _Clock:
    """Wall seconds by phase."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - begin

    def total(self) -> float:
        return time.monotonic() - self.begin
