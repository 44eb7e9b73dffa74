"""Run folders for tests: real experiments, genotypes and records; accuracies and costs follow a formula."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from nas.config.sections import ExperimentConfig
from nas.runs.record import TrialRecord, write_record
from nas.space.search_space import SearchSpace

EXPERIMENT: dict[str, Any] = {
    "space": {
        "stem": "small",
        "operators": {
            "conv3": {"op": "conv", "kernel_size": 3},
            "inv7": {"op": "involution", "kernel_size": 7},
            "od4": {"op": "odconv", "kernel_size": 3, "num_kernels": 4},
            "sc4": {"op": "scconv", "pooling": 4},
            "gn3": {"op": "gnconv", "order": 3},
        },
        "mix": "per_block",
        "stages": [
            {"block": "bottleneck", "depth": [1, 2], "width": [32, 64]},
            {"block": ["bottleneck", "gated"], "depth": [2, 3, 4], "width": [64, 128]},
            {"block": "basic", "depth": [1, 2], "width": [128, 256]},
        ],
    },
    "objectives": [{"name": "top1"}, {"name": "latency_ms", "device": "cpu"}],
    "search": {"sampler": "nsga2", "num_trials": 60, "seed": 7},
}
GAIN = {"conv": 0.0, "involution": 0.010, "odconv": 0.016, "scconv": 0.012, "gnconv": 0.020}
PRICE = {"conv": 1.0, "involution": 1.1, "odconv": 1.5, "scconv": 1.3, "gnconv": 1.9}
START = 1_760_000_000.0


def experiment(**sections: Any) -> ExperimentConfig:
    """The sample experiment with whole sections replaced."""
    return ExperimentConfig.model_validate_json(json.dumps(EXPERIMENT | sections))


def record(number: int, state: Any = "complete", **objectives: float) -> TrialRecord:
    """A bare record with the given objectives."""
    return TrialRecord(number=number, key=f"{number:012x}", state=state, genotype={}, objectives=objectives)


def sample_record(space: SearchSpace, number: int, state: Any = "complete", **changes: Any) -> TrialRecord:
    """The record of a random network of the space; its figures grow with size and operators, and scatter a little."""
    draw = random.Random(number)
    params = {name: draw.choice(values) for name, values in space.choices().items()}
    genotype = space.decode(params)
    blocks = genotype.blocks
    prices = [PRICE.get(block.operator.op, 1.2) for block in blocks]
    num_params = sum(9 * block.width**2 * price / 2 for block, price in zip(blocks, prices, strict=True))
    sizes = zip(blocks, prices, strict=True)
    latency = sum(0.1 + block.width / 400 * price for block, price in sizes) * draw.uniform(0.97, 1.03)
    quality = 0.70 + 0.012 * len(blocks) + sum(GAIN.get(block.operator.op, 0.008) for block in blocks) / len(blocks) * 4
    top1 = round(min(quality + draw.gauss(0, 0.015), 0.999), 4)
    costs = {"num_params": round(num_params), "num_macs": round(num_params * 40), "latency_ms": round(latency, 4)}
    measured = {
        "median_ms": costs["latency_ms"],
        "p20_ms": round(latency * 0.98, 4),
        "p80_ms": round(latency * 1.03, 4),
        "disturbed": number % 8 == 4,
    }
    setting = {"num_runs": 40, "device": "cpu", "batch_size": 1, "dtype": "float32", "num_threads": 1}
    objectives: dict[str, float] = {"latency_ms": costs["latency_ms"]}
    rows = {"complete": 12, "stopped": 4}.get(state, 0)
    curve = [
        {
            "epoch": epoch,
            "train_loss": round(2.3 * 0.78**epoch + draw.uniform(0, 0.05), 4),
            "top1": top1 if epoch == 12 else round(top1 * (1 - 0.8**epoch) + draw.uniform(-0.01, 0.01), 4),
            "seconds": 1.5,
        }
        for epoch in range(1, rows + 1)
    ]
    if rows:
        objectives["top1"] = curve[-1]["top1"]
    values = {
        "number": number,
        "key": genotype.key,
        "state": state,
        "genotype": genotype.to_dict(),
        "params": params,
        "objectives": objectives,
        "costs": costs | {"latency": measured | setting},
        "curve": curve,
        "seconds": 20.0,
        "started": START + 10 * number,
        "finished": START + 10 * number + 20,
    }
    return TrialRecord(**(values | changes))


def make_run(folder: Path, num_records: int = 40, config: ExperimentConfig | None = None) -> Path:
    """A run folder as the search leaves it: every tenth trial stopped, one in twenty failed or rejected."""
    config = config or experiment()
    folder.mkdir(parents=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / "experiment.yaml").write_text(text)
    (folder / "resolved.yaml").write_text(text)
    environment = {"device": "cpu: sample", "versions": {"torch": "2.15.0"}, "seed": config.search.seed}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "trials").mkdir()
    space = SearchSpace(config.space)
    for number in range(num_records):
        add_record(folder, space, number)
    return folder


def add_record(folder: Path, space: SearchSpace, number: int, **changes: Any) -> TrialRecord:
    """Write one more record into a run folder."""
    states = {7: "stopped", 13: "failed", 17: "rejected"}
    errors = {"failed": "non_finite_loss: epoch 2, step 31", "rejected": "constraint: num_params 31e6 above 30e6"}
    state = states.get(number % 20, "complete")
    made = sample_record(space, number, **({"state": state, "error": errors.get(state)} | changes))
    write_record(folder, made)
    return made
