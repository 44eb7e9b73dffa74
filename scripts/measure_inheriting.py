"""What `proxy.inherit: nearest` does to short trainings: how far they get, and how well they still rank networks.

Usage: measure_inheriting.py OUT.json [--table results/search/table.jsonl] [--networks 48] [--epochs 3] [--seeds 0]

The first networks of a table, in an order drawn by the seed, are trials one after the other, as a search with one place
runs them (`run_trial`), for `--epochs` of the table's training: once from a fresh start, once with the weights of the
network most like each on the front of then. The accuracies are compared with those at the end of the table's whole
trainings. What OUT.json has is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from nas.base.files import write_atomically
from nas.bench.search.table import TableSpace, read_rows
from nas.config.sections import ExperimentConfig
from nas.runs.pareto import front
from nas.runs.record import TrialRecord
from nas.runs.retrainings import kendall
from nas.search.cluster.front_weights import FrontWeights
from nas.search.evaluators.context import TrialContext
from nas.search.evaluators.donors import nearest
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype


def searched(config: ExperimentConfig, genotypes: dict[int, Genotype], seed: int) -> dict[str, dict[str, Any]]:
    """Number of a network -> what its trial came to."""
    found, records = {}, list[TrialRecord]()
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(config, Path(folder) / "results" / "run", torch.device("cpu"))
        weights = FrontWeights(context.run_dir)
        for number, (net, genotype) in enumerate(genotypes.items()):
            before, donor = front(records, config.objectives), None
            if config.proxy.inherit == "nearest" and (other := nearest(genotype, before)):
                donor = {"number": other.number, "key": other.key, "genotype": json.dumps(other.genotype)}
            *_, last = run_trial(TrialTask(number, genotype, {}, seed * 1000 + number, donor=donor), context)
            records.append(last["record"])
            weights.finished(records[-1], before, front(records, config.objectives))
            evaluation = records[-1].evaluations[-1]
            curve = [round(row["top1"], 4) for row in records[-1].curve]
            found[str(net)] = {"curve": curve, "share": evaluation.get("inherited", {}).get("share", 0.0)}
            print(config.proxy.inherit, number, net, found[str(net)], flush=True)
    return found


def compared(way: dict[str, dict[str, Any]], space: TableSpace) -> dict[str, Any]:
    """Kendall's tau with the whole trainings, with its 95 % interval; accuracies, and those of either half in order."""
    last = [row["curve"][-1] for row in way.values()]
    truth = [1 - float(space.points[int(net), 0]) for net in way]
    half = len(last) // 2
    halves = [sum(last[:half]) / half, sum(last[half:]) / (len(last) - half)]
    shares = [row["share"] for row in way.values()]
    return {
        "tau": kendall(list(zip(last, truth, strict=True))),
        "top1": sum(last) / len(last),
        "top1_of_halves": halves,
        "whole_top1_of_halves": [sum(truth[:half]) / half, sum(truth[half:]) / (len(truth) - half)],
        "share": sum(shares) / len(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, default=Path("results/search/table.jsonl"))
    parser.add_argument("--networks", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, (header, _) = TableSpace(args.table, "num_params"), read_rows(args.table)
    asked = {"table": args.table.name, "networks": args.networks, "epochs": args.epochs}
    found: dict[str, Any] = {**asked, "trials": {}, "compared": {}}
    if args.out.exists():
        found = json.loads(args.out.read_text(encoding="utf-8"))
        if {name: found[name] for name in asked} != asked:
            parser.error(f"{args.out}: is of something else than {asked}")
    for seed in args.seeds:
        genotypes = space.genotypes()
        order = random.Random(seed).sample(range(len(genotypes)), args.networks)
        for inherit in ("none", "nearest"):
            config = ExperimentConfig.model_validate_json(
                json.dumps(
                    {
                        "space": header["space"],
                        "objectives": [{"name": "top1"}, {"name": "num_params"}],
                        "search": {"seed": seed},
                        "proxy": header["proxy"] | {"epochs": args.epochs, "inherit": inherit},
                    }
                )
            )
            name = f"{inherit} {seed}"
            if name not in found["trials"]:
                found["trials"][name] = searched(config, {net: genotypes[net] for net in order}, seed)
            found["compared"][name] = compared(found["trials"][name], space)
            print(name, found["compared"][name], flush=True)
            write_atomically(args.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
