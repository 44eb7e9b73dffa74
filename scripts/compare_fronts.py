"""Does an operator lose for its implementation's sake? The front of a table of trained networks, its latencies measured
with each operator as it is published and as it runs here.

compare_fronts.py [--table TABLE] [--device cpu] [--batch-size 1] [--rounds 3] [--out FILE.json]

Each round measures every network with the published formulations (unfold for involution, a kernel of each sample from n
copies for ODConv, FFT for the global filter) and, right after it, with what is chosen here; errors are the table's. A
later call goes on where an earlier one ended. A picture FILE.png lies beside FILE.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm import tqdm

from nas.base.files import write_atomically
from nas.bench.kernels import hardware
from nas.bench.networks import PUBLISHED_FORMS
from nas.bench.search.table import TableSpace
from nas.kernels.tools.settings import forced
from nas.measure.latency import measure_latency
from nas.networks.model import build_model
from nas.runs.pareto import hypervolume, pareto_mask, reference_point
from nas.space.genotype import Genotype
from nas.training.process_state import reset_process

FORMS = {"published": PUBLISHED_FORMS, "ours": "auto"}
WORDS = {"published": "operators as published", "ours": "operators as they run here"}
COLOURS = {"conv": "#4c566a", "involution": "#d08770", "odconv": "#5e81ac", "scconv": "#a3be8c", "gnconv": "#b48ead"}


def measure(table: TableSpace, found: dict[str, Any], out: Path, rounds: int) -> None:
    """Adds what is missing of `rounds` rounds to `found`, and writes it after every network."""
    device = found["device"]
    for number in range(rounds):
        for net, genotype in enumerate(tqdm(table.genotypes(), desc=f"round {number + 1}", mininterval=30)):
            times = found["ms"].setdefault(str(net), {form: [] for form in FORMS})
            if len(times["ours"]) > number:
                continue
            model = build_model(genotype, 10, 1)
            pair = {}
            for form in sorted(FORMS, reverse=(net + number) % 2 == 1):  # neither is always the first
                with forced(FORMS[form]):
                    latency = measure_latency(model, (1, table.side, table.side), device, found["batch_size"])
                pair[form] = round(latency.median_ms, 5)
            for form, value in pair.items():
                times[form].append(value)
            write_atomically(out, json.dumps(found) + "\n")


def compared(table: TableSpace, found: dict[str, Any]) -> dict[str, Any]:
    """What the fronts have in common, and what a search by the slow forms would give away."""
    genotypes, errors = table.genotypes(), table.points[:, 0]
    ms = {form: np.array([np.median(found["ms"][str(net)][form]) for net in range(len(errors))]) for form in FORMS}
    points = {form: np.stack([errors, ms[form]], 1) for form in FORMS}
    fronts = {form: np.flatnonzero(pareto_mask(points[form])) for form in FORMS}
    reference = reference_point(points["ours"])
    best = hypervolume(points["ours"], reference)
    ratios = ms["published"] / ms["ours"]
    only = {
        op: [ratios[net] for net, genotype in enumerate(genotypes) if set(operators(genotype)) == {op}]
        for op in COLOURS
    }
    return {
        "networks": len(errors),
        "front_sizes": {form: len(front) for form, front in fronts.items()},
        "on_both_fronts": len({*fronts["published"]} & {*fronts["ours"]}),
        "hypervolume_of_the_published_forms_front": hypervolume(points["ours"][fronts["published"]], reference) / best,
        "rank_correlation": float(cast(Any, spearmanr(ms["published"], ms["ours"])).statistic),
        "operators_on_the_front": {form: shares(genotypes, front) for form, front in fronts.items()},
        "times_faster": {
            op: [round(float(value), 3) for value in np.percentile(values, [10, 50, 90])] for op, values in only.items()
        },
    }


def operators(genotype: Genotype) -> list[str]:
    return [block.operator.op for stage in genotype.stages for block in stage]


def shares(genotypes: list[Genotype], front: NDArray[np.intp]) -> dict[str, float]:
    """Share of the blocks of these networks that each operator has."""
    counts = Counter(op for net in front for op in operators(genotypes[net]))
    return {op: round(counts[op] / counts.total(), 3) for op in COLOURS}


def plot(table: TableSpace, found: dict[str, Any], path: Path) -> None:
    """Error against latency for both forms, a dot per network, half in the colour of each of its stages' operators."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(1, 2, figsize=(11, 4.6), sharex=True, sharey=True)
    genotypes, errors = table.genotypes(), table.points[:, 0]
    for axes, (form, words) in zip(row, WORDS.items(), strict=True):
        ms = np.array([np.median(found["ms"][str(net)][form]) for net in range(len(errors))])
        front = np.flatnonzero(pareto_mask(np.stack([errors, ms], 1)))
        axes.scatter(ms, errors, s=6, color="#d8dee9")
        order = front[np.argsort(ms[front])]
        axes.step(ms[order], errors[order], where="post", color="#4c566a", linewidth=0.8)
        for net in front:
            first, last = operators(genotypes[net])[0], operators(genotypes[net])[-1]
            axes.plot(
                ms[net], errors[net], marker="o", markersize=8, fillstyle="left", linestyle="none",
                color=COLOURS[first], markerfacecoloralt=COLOURS[last], markeredgewidth=0,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel=f"latency, ms (batch {found['batch_size']})", title=words)
        axes.grid(color="#e4e7eb", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel("error on the held out digits")
    marks = [pyplot.Line2D([], [], marker="o", linestyle="none", color=colour) for colour in COLOURS.values()]
    row[1].legend(marks, COLOURS, frameon=False, fontsize=8, title="operators: first and last stage", title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("results/search/table.jsonl"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/search/fronts.json"))
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"--device {args.device}: this machine has no usable GPU; cpu is there")
    table = TableSpace(args.table)
    begun = {"device": args.device, "batch_size": args.batch_size, "table": str(args.table)}
    begun["environment"] = hardware(torch.device(args.device))
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {**begun, "ms": {}}
    if other := [name for name, value in begun.items() if found.get(name) != value]:
        sys.exit(f"{args.out}: was measured with another {other[0]}; name another file, or remove it")
    reset_process(0, num_threads=1)
    measure(table, found, args.out, args.rounds)
    found["compared"] = compared(table, found)
    write_atomically(args.out, json.dumps(found) + "\n")
    plot(table, found, args.out.with_suffix(".png"))
    print(json.dumps(found["compared"], indent=1))


if __name__ == "__main__":
    main()
