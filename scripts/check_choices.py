"""Whether a search measures every call of kernels that its networks make: random networks of the shipped spaces.

python scripts/check_choices.py 150 [quickstart cifar imagenet]
Networks run on this CPU, each way that a trial of the space runs them, with few images; cases are compared with those
that are measured before the first trial. Prints a line per space; exit code 1 where a case is missing.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import torch

from nas.config.reading import load_experiment
from nas.kernels.tools.choosing import cases as cases_met
from nas.measure.cases import cases, loads, parts_of_space
from nas.networks.model import build_model
from nas.networks.precision import to_device

CPU = torch.device("cpu")
CHANNELS = {"quickstart": 1, "cifar": 3, "imagenet": 3}


def missing(name: str, num_networks: int) -> tuple[int, int, int]:
    """Cases that are measured for a space, calls of random networks, those of them that are none of the cases."""
    overrides = ["proxy.batch_size=2", *(["proxy.data_dir=/"] if name == "imagenet" else [])]
    config, space = load_experiment(Path(f"search_spaces/{name}.yaml"), overrides)
    ways = [dataclasses.replace(way, device=CPU) for way in loads(config, 4, 2, CPU, torch.get_num_threads())]
    # as few images in a measurement as in training
    ways = [dataclasses.replace(way, batch_sizes=tuple(min(2, n) for n in way.batch_sizes)) for way in ways]
    shape, draw = (CHANNELS[name], config.proxy.resolution), random.Random(0)
    measured, calls, absent = cases(parts_of_space(space, *shape), ways), 0, 0
    for _ in range(num_networks):
        genotype = space.decode({name: draw.choice(values) for name, values in space.choices().items()})
        for way in ways:
            model = to_device(build_model(genotype, 10, shape[0]), CPU)
            for size in dict.fromkeys(way.batch_sizes):
                images = torch.randn(size, shape[0], shape[1], shape[1])
                found = cases_met(model, images, way.dtype, way.training)
                calls, absent = calls + len(found), absent + len(found.keys() - measured.keys())
    return len(measured), calls, absent


def main(num_networks: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    wrong = 0
    for name in names or list(CHANNELS):
        measured, calls, absent = missing(name, num_networks)
        print(f"{name}: {measured} cases, {calls} calls of {num_networks} networks, {absent} missing", flush=True)
        wrong += absent
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
