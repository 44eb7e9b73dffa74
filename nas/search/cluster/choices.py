"""The forms of kernels that a run computes with: measured where its trials run, before the first, and then kept.

A trial that is repeated, or goes on elsewhere, so computes the same; see `nas.kernels._core.forms`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.base.extensions import is_own, kept
from nas.base.files import write_atomically
from nas.base.signals import insist
from nas.config.sections import ExperimentConfig
from nas.runs.folder import CHOICES, has_trained, shared_cache
from nas.search.cluster.nodes import fitting_nodes
from nas.search.run import warm_starts
from nas.space.search_space import SearchSpace
from nas.space.specs import Stem

OPERATORS = ("involution", "odconv")  # whose kernels have forms to choose from; gnConv's with a global filter


def pinned_choices(
    config: ExperimentConfig,
    run_dir: Path,
    storage: tuple[str, str] | None,
    say: Callable[[str], None],
) -> dict[str, str]:
    """The form of each case of the run's networks, by the text of the case: that of the run's folder, else measured
    now on a node of the cluster on which trials fit, and put there.

    A run that trained before it had any goes on without, and so does one whose operators have nothing to choose.
    """
    path = run_dir / CHOICES
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["forms"]
    forms: dict[str, str] = {}
    if not has_trained(run_dir) and _has_any(config):
        say("measuring which form of each kernel is the fastest here; what is known from earlier runs is not repeated")
        if config.resources.gpus_per_trial:
            say("our kernels are compiled for the GPU first, by every core; what is left after a minute, when measured")
        forms, summary = _measured_in_cluster(config, run_dir, storage)
        say(summary)
    write_atomically(path, json.dumps({"forms": forms}, indent=1) + "\n")
    return forms


def _has_any(config: ExperimentConfig) -> bool:
    if os.environ.get("OPNAS_KERNELS", "auto") != "auto":
        return False
    if config.resources.gpus_per_trial:
        return True  # our kernels against PyTorch's own
    operators = config.space.operators.values()
    stem = config.space.stem.kind if isinstance(config.space.stem, Stem) else config.space.stem
    from_elsewhere = any(name != "each_operator" for name in config.search.warm_start)
    chosen = (is_own(each.op) or each.op in OPERATORS or getattr(each, "filter", "") == "global" for each in operators)
    return stem == "rednet" or from_elsewhere or any(chosen)


def _measured_in_cluster(
    config: ExperimentConfig, run_dir: Path, storage: tuple[str, str] | None
) -> tuple[dict[str, str], str]:
    """By a process of its own, which takes its GPU's memory with it; started again by Ray if it is killed."""
    resources = config.resources
    node = NodeAffinitySchedulingStrategy(fitting_nodes(resources)[0]["NodeID"], soft=True)
    task = ray.remote(num_cpus=0, num_gpus=resources.gpus_per_trial, max_calls=1)(measured)
    num_threads, on_gpu = max(1, int(resources.cpus_per_trial)), resources.gpus_per_trial > 0
    waited = task.options(scheduling_strategy=node).remote(
        config.model_dump_json(), str(run_dir.resolve()), num_threads, on_gpu, kept(run_dir), storage
    )
    while not ray.wait([waited], timeout=0.5)[0]:
        insist()
    try:
        return ray.get(waited)
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        return {}, f"the forms of kernels could not be measured, rules say which run: {last}"


def measured(
    experiment: str,
    run_dir: str,
    num_threads: int,
    on_gpu: bool,
    code: Mapping[str, str],
    storage: tuple[str, str] | None,
    seconds: float = 60.0,
) -> tuple[dict[str, str], str]:
    """What `choose` says, within so many seconds, of all parts of the networks that a run may train; and in words."""
    from nas.measure.cases import cases, loads, parts, parts_of_space
    from nas.measure.choices import choose
    from nas.search.cluster.worker import made_context
    from nas.search.evaluators.context import device_lock
    from nas.space.genotype import Genotype
    from nas.training.process_state import reset_process

    context = made_context(experiment, run_dir, num_threads, on_gpu, code, storage)
    reset_process(0, num_threads)
    config, dataset = context.config, context.dataset()
    space, shape = SearchSpace(config.space), (dataset.in_channels, config.proxy.resolution)
    met = parts_of_space(space, *shape)
    for _, _, genotype in warm_starts(config, space):
        met |= dict.fromkeys(parts(Genotype.from_json(genotype), *shape) if genotype else ())
    ways = loads(config, len(dataset.train), len(dataset.validation), context.device, num_threads)
    with context.training():
        found = cases(met, ways)
    folder = shared_cache(context.run_dir) / "kernels"
    chosen = choose(found, folder, lambda device: device_lock(device).exclusive(), seconds)
    return chosen.forms, chosen.summary
