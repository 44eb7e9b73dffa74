"""Train random networks of an experiment's space by its proxy recipe, and count the trainings that fail.

Usage: train_random.py FILE N [a.b=c ...] [--processes 2] [--out FILE.json]

Networks are drawn with the seeds 0 to N - 1, which are also those of the trainings. On the CPU, as a trial trains, with
what `a.b=c` sets instead of the file's own, such as proxy.dataset=cluttered_digits where its data set is not at hand.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from nas.config.reading import load_experiment
from nas.data.batches import MemorySource
from nas.data.datasets import load_dataset
from nas.networks.model import build_model
from nas.training.loop import NonFiniteLoss, train
from nas.training.process_state import reset_process


def train_one(file: Path, overrides: list[str], seed: int) -> dict[str, object]:
    """Draw and train one network: {seed, key, top1 of each epoch, error}."""
    config, space = load_experiment(file, overrides)
    draw = random.Random(seed)
    params = {name: draw.choice(values) for name, values in space.choices().items()}
    genotype, proxy = space.decode(params), config.proxy.chosen(params)
    dataset = load_dataset(config.proxy, 0, Path("results/.cache"))
    reset_process(seed, num_threads=1)
    model = build_model(genotype, dataset.num_classes, dataset.in_channels, proxy.drop_path)
    source = MemorySource(dataset, proxy, seed=0, device=torch.device("cpu"))
    found: dict[str, object] = {"seed": seed, "key": genotype.key, "top1": [], "error": None}
    try:
        found["top1"] = [round(row["top1"], 4) for row in train(model, source, proxy, seed=seed, device="cpu")]
    except NonFiniteLoss as error:
        found |= {"error": str(error), "genotype": genotype.to_dict()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    count = options.count
    with ProcessPoolExecutor(options.processes) as pool:
        work = pool.map(train_one, [options.file] * count, [options.overrides] * count, range(count))
        found = list(tqdm(work, total=count, unit="training", mininterval=10))
    last = [row["top1"][-1] for row in found if row["top1"]]  # type: ignore[index]
    summary = {
        "file": options.file.name,
        "overrides": options.overrides,
        "torch": torch.__version__,
        "trainings": count,
        "distinct": len({row["key"] for row in found}),
        "failed": sum(row["error"] is not None for row in found),
        "top1": {"lowest": min(last), "median": statistics.median(last), "highest": max(last)} if last else None,
        "failures": [row for row in found if row["error"] is not None],
    }
    text = json.dumps(summary, indent=1)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
