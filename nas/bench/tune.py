"""`nas bench tune`: what a search measures of kernels before its first trial, ahead of it."""

from __future__ import annotations

import math
from pathlib import Path

from nas.config.reading import load_experiment
from nas.measure.cases import Load, cases, parts
from nas.measure.choices import choose
from nas.networks.precision import usable_device
from nas.runs.folder import RESULTS, shared_cache
from nas.search.cluster.choices import measured
from nas.search.evaluators.context import device_lock
from nas.space.published import named_genotype


def tune_space(file: Path) -> str:
    """Measure for the searches of a file what no earlier one has; returns what was done in words. Raises UserError."""
    config, _ = load_experiment(file, [])
    resources = config.resources
    usable_device("cuda" if resources.gpus_per_trial else "cpu")
    num_threads, on_gpu = max(1, int(resources.cpus_per_trial)), resources.gpus_per_trial > 0
    run_dir = str((RESULTS / "tune").resolve())  # a run that is not there: what is kept lies beside it
    return measured(config.model_dump_json(), run_dir, num_threads, on_gpu, {}, None, math.inf)[1]


def tune_network(name: str, device: str, batch_size: int, resolution: int, training: bool) -> str:
    """The same for a published network, or a genotype in a file, in float32 on colour images. Raises UserError."""
    genotype, target = named_genotype(name), usable_device(device)
    way = Load((batch_size,), training, target, None, 1)
    found = cases(dict.fromkeys(parts(genotype, 3, resolution)), [way])
    folder = shared_cache(RESULTS / "tune") / "kernels"
    return choose(found, folder, lambda device: device_lock(device).exclusive(), math.inf).summary
