"""retrain: networks of a run trained again on this machine, to see whether its accuracies can be had here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas import kernels
from nas.base.errors import Failed, UserError
from nas.base.seeds import keyed_seed
from nas.config.own import own_names
from nas.config.reading import load, load_experiment
from nas.runs.folder import CHOICES
from nas.runs.noise.of_run import noise_of
from nas.runs.reader import RunReader
from nas.search.evaluators.context import TrialContext
from nas.search.run import check_machine
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype

APART = 3.0
"""Standard deviations between the accuracy here and that of the run beyond which they differ."""


def retrain(run_dir: Path, count: int, run_code: bool, say: Callable[[str], object]) -> list[dict[str, Any]]:
    """Train `count` networks of the front once more, one after the other, in this process, with seeds of their own
    and the forms of kernels that the run keeps; their key, accuracy here, that of the run, and whether the seed alone
    explains the difference.

    Modules of the run's own are imported with `run_code` alone. Raises UserError where this machine has not what the
    run needs, Failed where a training fails.
    """
    own = own_names(load(run_dir / "resolved.yaml"))
    if own and not run_code:
        raise UserError(
            f"the run has code of its own ({', '.join(own)}), which a training runs; --run-code allows that"
        )
    config, space = load_experiment(run_dir / "resolved.yaml")
    check_machine(config, space)
    run = RunReader(run_dir).refresh()
    noise, members = noise_of(run), run.front()
    if noise is None:
        raise UserError("the run has no accuracies to compare with, or does not say on how many images they are")
    device = torch.device("cuda" if config.resources.gpus_per_trial else "cpu")
    kept = run_dir / CHOICES
    kernels.use(json.loads(kept.read_text(encoding="utf-8"))["forms"] if kept.exists() else {})
    context = TrialContext(config, run_dir.parent / "here", device, max(1, int(config.resources.cpus_per_trial)))
    found = []
    for row in members[:: max(1, len(members) // count)][:count]:
        record = run.record(row.number)
        seed = keyed_seed(config.search.seed, "verify", row.number)
        genotype = Genotype.from_dict(record.genotype)
        task = TrialTask(0, genotype, record.params, seed, costs=record.costs, replicate_of=row.number)
        *_, last = run_trial(task, context)
        if last["record"].state != "complete":
            raise Failed(f"{row.key}: the training here {last['record'].state}: {last['record'].error}")
        here, known = last["record"].objectives[config.trained], noise.of(row.number)
        spread = noise.judged.noise.seed_sd * math.sqrt(1 + 1 / known["num_trainings"])
        apart = abs(here - known["mean"]) / max(spread, 1e-6)
        claimed, holds = known["mean"], apart <= APART
        found.append({"key": row.key, config.trained: here, "claimed": claimed, "sd": spread, "holds": holds})
        say(
            f"{row.key}: {100 * here:.2f} % here, {100 * known['mean']:.2f} % claimed, "
            f"{apart:.1f} standard deviations apart"
        )
    return found
