"""How long a search would take. Usage: python scripts/estimate_search.py FILE TRAIN_IMAGES CLASSES TERAFLOPS

A step costs six operations per multiply-accumulate (forward, and twice that backward). TERAFLOPS is what the device
reaches in such networks, not its peak. MACs are the mean of 200 random networks within the file's limits on parameters
and MACs; every trial runs to its end, which `mo_asha` avoids for most. Prints one JSON object.
"""

from __future__ import annotations

import json
import random
import statistics
import sys

from nas.config.reading import load_experiment
from nas.search.surrogate.known_costs import KnownCosts

NETWORKS = 200


def estimate(file: str, train_images: int, classes: int, teraflops: float) -> dict[str, float]:
    config, space = load_experiment(file)
    costs, draw, macs = KnownCosts(space, config.proxy.resolution, 3, classes), random.Random(0), []
    while len(macs) < NETWORKS:
        found = costs({name: draw.choice(values) for name, values in space.choices().items()})
        limits = {name: bound.max for name, bound in config.constraints.items() if name in found}
        if all(limit is None or found[name] <= limit for name, limit in limits.items()):
            macs.append(found["num_macs"])
    images = config.search.num_trials * config.proxy.epochs * train_images
    operations = 6 * statistics.mean(macs) * images
    return {
        "mean_macs": round(statistics.mean(macs)),
        "images": images,
        "operations": operations,
        "device_hours": round(operations / teraflops / 1e12 / 3600, 1),
    }


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    print(json.dumps(estimate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
