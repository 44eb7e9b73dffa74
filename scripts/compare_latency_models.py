"""How many networks the surrogate's model of latency needs, with and without a table of parts.

Reads the 50 random networks of `nas profile search_spaces/quickstart.yaml --table --json`, which are kept in
results/search/latency_table.json, fits the model to some of them and predicts the others, eight times with others each
time. Prints JSON: the error in the middle, as a share of the measured latency, and how many measured values lie within
the model's 95 % interval, both means of the eight with their standard deviation.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from nas.bench.search.run import circumstances
from nas.config.reading import load_experiment
from nas.search.samplers import distributions_of
from nas.search.surrogate.axes import Space
from nas.search.surrogate.model import Ensemble

ROOT = Path(__file__).parents[1]
SIZES, REPEATS = (3, 6, 8, 12, 24, 40), 8


def main() -> list[dict[str, float]]:
    _, space = load_experiment(ROOT / "search_spaces/quickstart.yaml")
    networks = json.loads((ROOT / "results/search/latency_table.json").read_text(encoding="utf-8"))["check"]["networks"]
    measured, sums = (np.array([one[name] for one in networks]) for name in ("measured_ms", "sum_ms"))
    positions = Space(distributions_of(space), space.active, np.random.default_rng(0))
    draw, choices, drawn = random.Random(0), space.choices(), {}
    while len(drawn) < len(networks):  # as check_table draws them
        params = {name: draw.choice(values) for name, values in choices.items()}
        drawn.setdefault(space.decode(params).key, params)
    assert list(drawn) == [one["key"] for one in networks], "the space has changed since they were measured"
    rows, found = np.array([positions.in_effect(params) for params in drawn.values()]), []
    for size in SIZES:
        figures: dict[str, list[float]] = {}
        for repeat in range(REPEATS):
            order = np.random.default_rng(repeat).permutation(len(rows))
            taught, asked = order[:size], order[size:]
            for name, factor in (("alone", np.ones_like(sums)), ("with_table", sums)):
                model = Ensemble(
                    positions.sizes.tolist(), positions.numeric, rows[taught], (measured / factor)[taught],
                    plain_log=name == "with_table",
                )  # fmt: skip
                mean, spread = np.array(model.predict(rows[asked], noisy=True)) * factor[asked]
                figures.setdefault(f"{name}_error", []).append(np.median(np.abs(mean / measured[asked] - 1)))
                inside = np.abs(mean - measured[asked]) < 1.96 * spread
                figures.setdefault(f"{name}_within_95", []).append(np.mean(inside))
        rounded = {
            name: [round(float(np.mean(all_)), 3), round(float(np.std(all_)), 3)] for name, all_ in figures.items()
        }
        found.append({"networks": size} | rounded)
    return found


if __name__ == "__main__":
    print(json.dumps(circumstances() | {"command": "scripts/compare_latency_models.py", "rows": main()}, indent=1))
