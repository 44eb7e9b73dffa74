"""How well inherited weights rank networks: Kendall's tau of a supernet's top1 against that of the proxy's trainings.

Usage: measure_supernet.py FILE OUT.json [--networks 60] [--trainings 1] [--epochs 15] [--paths 4] [--distillation 0]

Random networks of the space are trained as `proxy` says, with the first of what it lists, on one CPU; a supernet is
trained with the settings of `evaluator: supernet`, and judges them. What OUT.json has is not done again,
so that several supernets are compared on the same networks. CPU seconds are of this process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from nas.base.files import write_atomically
from nas.config.evaluators import EvaluatorConfig
from nas.config.reading import load_experiment
from nas.config.sections import ExperimentConfig
from nas.data.batches import MemorySource
from nas.data.datasets import ImageDataset, load_dataset
from nas.measure.cost import num_macs, num_params
from nas.networks.model import build_model
from nas.networks.shared.supernet import Supernet
from nas.runs.retrainings import kendall
from nas.search.evaluators.supernet import training_of
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace
from nas.training.loop import measure_score, train
from nas.training.process_state import reset_process
from nas.training.supernet import inheriting, train_supernet

DEVICE = torch.device("cpu")
SEED = 12345
"""Of the networks that are drawn."""


def networks(space: SearchSpace, count: int) -> list[Genotype]:
    draw, found = random.Random(SEED), dict[str, Genotype]()
    while len(found) < count:
        genotype = space.decode({name: draw.choice(values) for name, values in space.choices().items()})
        found.setdefault(genotype.key, genotype)
    return list(found.values())


def trained(genotype: Genotype, config: ExperimentConfig, dataset: ImageDataset, seed: int) -> dict[str, Any]:
    """top1 at the end of a training."""
    begin, proxy = time.process_time(), config.proxy.chosen({})
    reset_process(seed)
    model = build_model(genotype, dataset.num_classes, dataset.in_channels, proxy.drop_path)
    rows = list(train(model, MemorySource(dataset, proxy, seed=seed, device=DEVICE), proxy, seed=seed, device=DEVICE))
    return {"seed": seed, "top1": rows[-1]["top1"], "cpu_seconds": round(time.process_time() - begin, 2)}


def inherited(
    genotypes: list[Genotype], stage: EvaluatorConfig, config: ExperimentConfig, space: SearchSpace, data: ImageDataset
) -> dict[str, Any]:
    """A supernet of the space, trained, and what it says of networks."""
    begin, proxy = time.process_time(), training_of(stage, config.proxy)
    reset_process(config.search.seed)
    net = Supernet(space, data.num_classes, data.in_channels, stage.num_paths, config.search.seed)
    source = MemorySource(data, proxy, seed=config.search.seed, device=DEVICE)
    rows = train_supernet(net, source, proxy, stage.distillation_share, seed=config.search.seed, device=DEVICE)
    curve = [{name: round(row[name], 4) for name in ("train_loss", "val_loss", "top1")} for row in rows]
    took, begin = time.process_time() - begin, time.process_time()
    said = {each.key: measure_score(inheriting(net, each, source, DEVICE), source).top1 for each in genotypes}
    return {
        "num_params": sum(parameter.numel() for parameter in net.parameters()),
        "cpu_seconds": round(took, 1),
        "cpu_seconds_per_network": round((time.process_time() - begin) / len(said), 3),
        "curve": curve,
        "top1": said,
    }


def compared(
    found: dict[str, Any], genotypes: list[Genotype], config: ExperimentConfig, dataset: ImageDataset
) -> dict[str, Any]:
    """Judgement -> tau against the mean top1 of a network's trainings."""
    truth = {
        each.key: sum(run["top1"] for run in runs) / len(runs)
        for each in genotypes
        if (runs := found["trained"][each.key])
    }
    shape = (dataset.in_channels, config.proxy.resolution, config.proxy.resolution)
    counted = {each.key: build_model(each, dataset.num_classes, dataset.in_channels) for each in genotypes}
    judged = {"num_macs": {key: num_macs(model, shape) for key, model in counted.items()}}
    judged |= {"num_params": {key: num_params(model) for key, model in counted.items()}}
    judged |= {name: one["top1"] for name, one in found["supernets"].items()}
    taus = {
        name: kendall([(values[key], top1) for key, top1 in truth.items() if key in values])
        for name, values in judged.items()
    }
    if all(len(runs) > 1 for runs in found["trained"].values()):  # about the most that any judgement can have
        halves = [
            (runs[0]["top1"], sum(run["top1"] for run in runs[1:]) / (len(runs) - 1))
            for runs in found["trained"].values()
        ]
        taus["one training"] = kendall(halves)
    return taus


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--trainings", type=int, default=1)
    for name, default in (("epochs", 15), ("paths", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--distillation", type=float, default=0.0)
    given = parser.parse_args()
    config, space = load_experiment(given.file, [])
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_dataset(config.proxy, config.search.seed, Path(cache))
    genotypes = networks(space, given.networks)
    found: dict[str, Any] = {"file": given.file.name, "trained": {}, "supernets": {}}
    if given.out.exists():
        found = json.loads(given.out.read_text(encoding="utf-8"))
    found["versions"] = {"torch": torch.__version__}
    for round_ in range(given.trainings):
        for at, genotype in enumerate(genotypes):
            runs = found["trained"].setdefault(genotype.key, [])
            if len(runs) <= round_:
                runs.append(trained(genotype, config, dataset, 100 * round_ + at))
                write_atomically(given.out, json.dumps(found, indent=1))
    settings = {"epochs": given.epochs, "paths": given.paths, "distillation": given.distillation}
    stage = EvaluatorConfig.model_validate({"name": "supernet", **settings})
    name = " ".join(f"{key} {value}" for key, value in settings.items())
    if name not in found["supernets"]:
        found["supernets"][name] = inherited(genotypes, stage, config, space, dataset)
    found["tau"] = compared(found, genotypes, config, dataset)
    write_atomically(given.out, json.dumps(found, indent=1))
    for name, tau in found["tau"].items():
        print(f"{name:<40} {tau and tau['tau']:.3f}  {tau and tau['low']:.3f} to {tau and tau['high']:.3f}")


if __name__ == "__main__":
    main()
