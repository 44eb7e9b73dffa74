"""Fine-tuning digits from weights of cluttered digits against training from scratch at equal epochs, on the CPU.

Usage: measure_finetuning.py [OUT.json]

A network of two stages, inv7 and gn3, is trained on cluttered digits (32 pixels, 12 epochs), and on plain digits (16
pixels) from these weights and from scratch, for 1, 2, 4 and 8 epochs at two learning rates and with three seeds; top-1
is of the 300 digits that neither data set trains on. The cluttered images show the same digits that are trained on
plain, so that this is about what weights are worth, not about images.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import nas
from nas.space import specs

SEEDS, EPOCHS, RATES = (0, 1, 2), (1, 2, 4, 8), (2e-3, 8e-3)
CLUTTERED = {"dataset": "cluttered_digits", "resolution": 32, "epochs": 12, "batch_size": 64, "learning_rate": 8e-3}
PLAIN = {"dataset": "digits", "resolution": 16, "batch_size": 64}


def network() -> nas.Genotype:
    blocks = [
        specs.Bottleneck(width=32, operator=specs.Involution(kernel_size=7)),
        specs.Gated(width=48, operator=specs.GnConv(order=3), layer_scale=1.0),
    ]
    stages = (blocks[0],), (replace(blocks[1], stride=2),)
    return nas.Genotype(stem=specs.Stem(kind="mobilenet", width=16), stages=stages)


def trained(name: str, settings: dict[str, Any], weights: Path | None = None) -> float:
    """top1 of one training."""
    overrides = {f"retrain.{entry}": value for entry, value in (settings | {"augment": "shift"}).items()}
    found = nas.Run("retrained").retrain(network(), overrides=overrides, devices=1, weights=weights, name=name)
    return found["top1"]


def main(out: str = "finetuning.json") -> None:
    target, rows = Path(out).resolve(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in SEEDS:
            name = f"cluttered-{seed}"
            top1 = trained(name, CLUTTERED | {"seed": seed})
            weights = Path("results/retrained/retrain").resolve() / f"{network().key}-{name}"
            for rate in RATES:
                for epochs in EPOCHS:
                    settings = PLAIN | {"seed": seed, "epochs": epochs, "learning_rate": rate}
                    row = {"seed": seed, "learning_rate": rate, "epochs": epochs, "cluttered_top1": top1}
                    for start, given in (("scratch", None), ("weights", weights)):
                        row[start] = trained(f"{start}-{seed}-{rate}-{epochs}", settings, given)
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
    result = {
        "command": " ".join(["scripts/measure_finetuning.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()} CPU, torch {torch.__version__}",
        "genotype": network().to_dict(),
        "mean_top1": [
            {"learning_rate": rate, "epochs": epochs}
            | {start: round(statistics.mean(of_rows(rows, rate, epochs, start)), 4) for start in ("scratch", "weights")}
            for rate in RATES
            for epochs in EPOCHS
        ],
        "trainings": rows,
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def of_rows(rows: list[dict[str, Any]], rate: float, epochs: int, start: str) -> list[float]:
    return [row[start] for row in rows if (row["learning_rate"], row["epochs"]) == (rate, epochs)]


if __name__ == "__main__":
    main(*sys.argv[1:])
