"""What evaluators need before the first trial, done once on a node of the cluster, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.base.errors import MachineError
from nas.base.extensions import kept
from nas.base.signals import insist
from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import ExperimentConfig
from nas.search.cluster.nodes import fitting_nodes
from nas.search.cluster.store import Store
from nas.search.evaluators.registry import find_evaluator
from nas.training.loop import Row
from nas.training.result import DESCRIPTION

LOOK_SECONDS = 0.5


def prepare(
    config: ExperimentConfig,
    run_dir: Path,
    storage: tuple[str, str] | None,
    choices: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Do what the evaluators of a run need that is not done yet; they go on where a killed process stopped.

    Meanwhile no trial runs: the process has a GPU, or all CPUs of a node that trials may have. Raises MachineError
    where it cannot be done.
    """
    for stage in config.evaluators:
        if find_evaluator(stage.name).prepare is None or (run_dir / stage.name / DESCRIPTION).exists():
            continue
        say(f"{stage.label}: {stage.supernet_epochs(config.proxy.epochs)} epochs before the first trial")
        for row in _rows(stage, config, run_dir, storage, choices):
            say(f"{stage.label}: epoch {row['epoch']:.0f}, top1 {row['top1']:.4f}, {row['seconds']:.1f} s")
        if storage is not None:
            Store(*storage).fetch(stage.name, run_dir / stage.name)


def _rows(
    stage: EvaluatorConfig,
    config: ExperimentConfig,
    run_dir: Path,
    storage: tuple[str, str] | None,
    choices: Mapping[str, str],
) -> Iterator[Row]:
    """By a process that is started again, a few times, if it is killed: it yields what was yielded, and goes on."""
    resources, node = config.resources, fitting_nodes(config.resources)[0]
    cpus = max(1, int(min(node["Resources"]["CPU"], resources.cpus_per_trial * (resources.max_concurrent or 1e9))))
    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
    task = ray.remote(num_cpus=cpus, num_gpus=min(1.0, resources.gpus_per_trial * 1e9), max_calls=1, max_retries=3)(
        _prepared
    )
    rows: Any = task.options(scheduling_strategy=where, num_returns="streaming").remote(
        *(stage.name, config.model_dump_json(), str(run_dir.resolve()), cpus, resources.gpus_per_trial > 0),
        *(kept(run_dir), storage, dict(choices)),
    )
    while True:
        while not ray.wait([rows], timeout=LOOK_SECONDS)[0]:
            insist()
        try:
            row: Any = ray.get(next(rows))
        except StopIteration:
            return
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise MachineError(f"evaluator {stage.name}: {last}") from None
        yield row


def _prepared(
    name: str,
    experiment: str,
    run_dir: str,
    num_threads: int,
    on_gpu: bool,
    code: Mapping[str, str],
    storage: tuple[str, str] | None,
    choices: Mapping[str, str],
) -> Iterator[Row]:
    from nas import kernels
    from nas.search.cluster.worker import made_context

    kernels.use(choices)
    context = made_context(experiment, run_dir, num_threads, on_gpu, code, storage)
    stage = next(stage for stage in context.config.evaluators if stage.name == name)
    prepare = find_evaluator(name).prepare
    assert prepare is not None
    yield from prepare(stage, context)
