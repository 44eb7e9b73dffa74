"""Whether starting from weights of another data set pays: measure_finetune.py [OUT.json] [SEEDS] [EPOCHS]

A network of involution and convolution is trained on cluttered digits, then on plain digits from those weights and from
scratch, with equal settings, for EPOCHS each (comma separated) and SEEDS seeds. Writes accuracies on the 300 test
digits, with the command and the machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nas
from nas.base.machine import describe_machine
from nas.space import specs
from nas.space.genotype import Genotype

SIDE, FIRST_EPOCHS = 24, 1
OPERATORS = (specs.Conv(), specs.Involution(kernel_size=3))


def main(out: str = "finetune.json", seeds: str = "3", epochs: str = "1,3") -> None:
    first, second = (specs.Bottleneck(width=16, operator=operator, stride=2) for operator in OPERATORS)
    genotype = Genotype(stem=specs.Stem(kind="mobilenet", width=16), stages=((first,), (second,)))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "resolved.yaml").write_text((Path("search_spaces") / "quickstart.yaml").read_text())
        run = nas.Run(folder)

        def train(dataset: str, count: int, seed: int, name: str, weights: str | None = None) -> float:
            settings = {"epochs": count, "dataset": dataset, "resolution": SIDE, "seed": seed, "batch_size": 48}
            settings |= {"augment": "shift", "learning_rate": 2e-3, "warmup_epochs": 0.5, "amp": "off"}
            overrides = {f"retrain.{key}": value for key, value in settings.items()}
            return run.retrain(genotype, overrides=overrides, name=name, weights=weights, devices=1)["top1"]

        first_top1 = train("cluttered_digits", FIRST_EPOCHS, 0, "first")
        weights = f"{folder}/retrain/{genotype.key}-first"
        found: dict[str, dict[str, list[float]]] = {}
        for count in map(int, epochs.split(",")):
            found[str(count)] = {
                start: [
                    train("digits", count, seed, f"{start}-{count}-{seed}", given) for seed in range(1, int(seeds) + 1)
                ]
                for start, given in (("scratch", None), ("weights", weights))
            }
    result = {
        **describe_machine(("opnas", "torch")),
        "command": " ".join(["scripts/measure_finetune.py", *sys.argv[1:]]),
        "what": "top-1 on 300 test digits by epochs and start, a value per seed",
        "first": {"dataset": "cluttered_digits", "epochs": FIRST_EPOCHS, "top1": first_top1},
        "top1": found,
        "mean": {n: {start: statistics.mean(values) for start, values in of.items()} for n, of in found.items()},
        "genotype": genotype.to_dict(),
        "seconds": time.monotonic() - began,
    }
    Path(out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["mean"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
