"""Train every network of a small space, for `nas bench search`. Usage: search_table.py train|latency [TABLE] [FILE]

train: every network with three seeds, all with the first one before any with the second; parameters and MACs besides.
latency: one more round of latencies over all networks; three rounds were taken, at different times.

The table (results/search/table.jsonl) grows by whole lines, and a later call goes on where an earlier one ended or was
killed. It may be stopped and continued (SIGSTOP, SIGCONT): a latency is the median of many runs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nas.bench.search.table import header_of, networks, read_rows
from nas.config.reading import load_experiment
from nas.config.sections import ExperimentConfig
from nas.data.batches import MemorySource
from nas.data.datasets import load_dataset
from nas.measure.cost import num_macs, num_params
from nas.measure.latency import measure_latency
from nas.networks.model import build_model
from nas.space.search_space import SearchSpace
from nas.training.loop import train
from nas.training.process_state import reset_process

SEEDS = 3
FIGURES = ("top1", "val_loss", "train_loss")


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def open_table(path: Path, config: ExperimentConfig) -> list[dict[str, Any]]:
    """The rows of the table so far; begins it where it is absent, and cuts a line that was not written to its end."""
    header = header_of(config, {"torch": torch.__version__, "threads": 1})
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        append(path, header)
    whole = path.read_bytes()
    os.truncate(path, whole.rfind(b"\n") + 1)
    found, rows = read_rows(path)
    # what has come to the sections since has its default there
    sections = {name: found[name] for name in ("space", "objectives", "proxy")}
    if header_of(ExperimentConfig.model_validate_json(json.dumps(sections)), {}) != {**header, "versions": {}}:
        sys.exit(f"{path}: belongs to another experiment; name another table, or remove it")
    return rows


def add_trainings(path: Path, config: ExperimentConfig, space: SearchSpace) -> None:
    rows = open_table(path, config)
    done = {(row["net"], row["seed"]) for row in rows if "seed" in row}
    counted = {row["net"] for row in rows if "num_params" in row}
    numbered = list(enumerate(networks(space)))
    tasks = [(seed, net, params) for seed in range(SEEDS) for net, params in numbered if (net, seed) not in done]
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_dataset(config.proxy, 0, Path(cache))
        shape = (dataset.in_channels, config.proxy.resolution, config.proxy.resolution)
        for seed, net, params in tqdm(tasks, unit="training", mininterval=30):
            genotype, begin = space.decode(params), time.process_time()
            reset_process(seed, num_threads=1)
            model = build_model(genotype, dataset.num_classes, dataset.in_channels, config.proxy.drop_path)
            if net not in counted:
                append(path, {"net": net, "num_params": num_params(model), "num_macs": num_macs(model, shape)})
                counted.add(net)
            source = MemorySource(dataset, config.proxy, seed=0, device=torch.device("cpu"))
            curve = list(train(model, source, config.proxy, seed=seed, device="cpu"))
            figures = {name: [round(epoch[name], 4) for epoch in curve] for name in FIGURES}
            append(path, {"net": net, "seed": seed, **figures, "seconds": round(time.process_time() - begin, 2)})


def add_latencies(path: Path, config: ExperimentConfig, space: SearchSpace) -> None:
    """One more round; a round that was interrupted is ended first."""
    rows = open_table(path, config)
    rounds = [row["net"] for row in rows if "latency_ms" in row]
    numbered = list(enumerate(networks(space)))
    asked = min(rounds.count(net) for net, _ in numbered) + 1
    reset_process(0, num_threads=1)
    side = config.proxy.resolution
    for net, params in tqdm(numbered, unit="network", mininterval=30):
        if rounds.count(net) < asked:
            latency = measure_latency(build_model(space.decode(params), 10, 1), (1, side, side), "cpu")
            spread = [round(latency.p20_ms, 4), round(latency.p80_ms, 4)]
            append(path, {"net": net, "latency_ms": round(latency.median_ms, 4), "spread_ms": spread})


if __name__ == "__main__":
    table = Path(sys.argv[2] if len(sys.argv) > 2 else "results/search/table.jsonl")
    experiment = load_experiment(Path(sys.argv[3] if len(sys.argv) > 3 else "scripts/search_table.yaml"))
    {"train": add_trainings, "latency": add_latencies}[sys.argv[1]](table, *experiment)
