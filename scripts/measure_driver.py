"""What a driver spends per trial when a search is long: measure_driver.py [TRIALS] [FILE] [SAMPLER]

Makes records of TRIALS random networks of an experiment file's space, with made up accuracies, loses the study, and has
the driver's parts go on. Prints JSON: wall seconds to refill the study, CPU seconds of the first proposal of a driver's
life, of later ones, of telling a trial, and of its line of progress, which goes to stderr.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import TypeVar

import numpy as np

from nas.bench.search.run import circumstances
from nas.config.reading import load_experiment
from nas.runs.record import TrialRecord
from nas.search.progress import Progress
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.surrogate.known_costs import KnownCosts

PROPOSALS = 8
T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float, float]:
    """What a call returns, and its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def measured(num_trials: int, file: str, sampler: str, folder: Path) -> dict:
    config, space = load_experiment(Path(file), [f"search.sampler={sampler}", "search.warm_start=[]"])
    known = KnownCosts(space, config.proxy.resolution, 3, 1000)
    draw, choices = np.random.default_rng(0), space.choices()
    weights = {name: dict(zip(values, draw.normal(size=len(values)), strict=True)) for name, values in choices.items()}

    def record(number: int, params: dict) -> TrialRecord:
        genotype, costs = space.decode(params), dict(known(params))
        quality = sum(weights[name][value] for name, value in space.active(params).items())
        measured = {*config.constraints, *(o.name for o in config.objectives)} - {*costs, "top1"}
        costs |= {name: costs["num_macs"] / 1e8 for name in measured}
        values = {o.name: 0.3 + 0.02 * quality if o.name == "top1" else costs[o.name] for o in config.objectives}
        curve = [{"epoch": epoch, "top1": values["top1"] * epoch / 12, "seconds": 1.0} for epoch in range(1, 13)]
        return TrialRecord(
            number=number, key=genotype.key, state="complete", genotype=genotype.to_dict(), params=params,
            objectives=values, costs=costs, curve=curve,
        )  # fmt: skip

    drawn = [{name: values[draw.integers(len(values))] for name, values in choices.items()} for _ in range(num_trials)]
    records = [record(number, params) for number, params in enumerate(drawn)]

    study = Study(config, space, storage_url(config, folder), "long", known)
    _, refill_s, refill_cpu_s = timed(lambda: study.reconcile(records))
    study = Study(config, space, storage_url(config, folder), "long", known)  # the next life
    study.reconcile(records)
    progress = Progress(config.objectives, 2 * num_trials, records)
    ask_s, tell_s, line_s = [], [], []
    for _ in range(PROPOSALS):
        proposal, _, cpu_s = timed(study.ask)
        ask_s.append(cpu_s)
        told = record(proposal.number, proposal.params)
        tell_s.append(timed(lambda told=told: study.tell(told))[2])
        with redirect_stderr(io.StringIO()):
            line_s.append(timed(lambda told=told: progress.finished(told))[2])
    return {
        "trials": num_trials,
        "file": file,
        "sampler": sampler,
        "refill_s": round(refill_s, 1),
        "refill_cpu_s": round(refill_cpu_s, 1),
        "first_proposal_cpu_s": round(ask_s[0], 2),
        "proposal_cpu_s": round(statistics.median(ask_s[1:]), 3),
        "tell_cpu_s": round(statistics.median(tell_s), 4),
        "progress_cpu_s": round(statistics.median(line_s), 4),
    }


if __name__ == "__main__":
    given = [*sys.argv[1:], *["10000", "search_spaces/imagenet.yaml", "surrogate"][len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory(prefix="opnas-driver-") as folder:
        found = measured(int(given[0]), given[1], given[2], Path(folder))
    command = {"command": " ".join(["scripts/measure_driver.py", *sys.argv[1:]])}
    print(json.dumps(circumstances() | command | found, indent=1))
