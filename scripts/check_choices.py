"""Whether a search measures every call of kernels that its networks make: random networks of the shipped spaces.

TRITON_INTERPRET=1 python scripts/check_choices.py 150 results/kernels/coverage.json [quickstart cifar imagenet@64]
A number behind @ is the resolution of images, the proxy's otherwise; rows of other spaces in the file stay.
Networks run on this CPU, each way that a trial of the space runs them, with few images; cases are compared with those
that are measured before the first trial. With TRITON_INTERPRET=1 cases are also those that a GPU has, our kernels
against PyTorch's own forms, all of which then run by PyTorch's, and maps lie in memory as they do there. Prints a line
per space; exit code 1 where a case is missing.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from nas.config.reading import load_experiment
from nas.kernels._core.launch import interpreted
from nas.kernels.tools.choosing import cases as cases_met
from nas.measure import cases as measured_cases
from nas.measure.cases import cases, loads, parts_of_space
from nas.networks import precision
from nas.networks.fuse import fuse_for_inference
from nas.networks.model import build_model
from nas.networks.precision import to_device

CPU = torch.device("cpu")
measured_cases.FEW = 5  # images: fewer are less work, and no first length of another tensor is 5 either
CHANNELS = {"quickstart": 1, "cifar": 3, "imagenet": 3}


def coverage(asked: str, num_networks: int) -> dict[str, Any]:
    """Cases that are measured for a space, calls of random networks, those of them that are none of the cases."""
    name, _, side = asked.partition("@")
    overrides = ["proxy.batch_size=2", *(["proxy.data_dir=/"] if name == "imagenet" else [])]
    overrides += [f"proxy.resolution={side}"] if side else []
    config, space = load_experiment(Path(f"search_spaces/{name}.yaml"), overrides)
    ways = [dataclasses.replace(way, device=CPU) for way in loads(config, 4, 2, CPU, 1)]
    # as few images in a measurement as in training
    few = [dataclasses.replace(way, batch_sizes=tuple(min(2, n) for n in way.batch_sizes)) for way in ways]
    ways = list(dict.fromkeys(few))
    shape, draw, begin = (CHANNELS[name], config.proxy.resolution), random.Random(0), time.process_time()
    measured, calls, absent = cases(parts_of_space(space, *shape), ways), Counter[str](), Counter[str]()
    for _ in range(num_networks):
        genotype = space.decode({name: draw.choice(values) for name, values in space.choices().items()})
        plain = to_device(build_model(genotype, 10, shape[0]), CPU)
        for way in ways:
            torch.set_num_threads(way.num_threads)
            model = fuse_for_inference(plain.eval()) if way.fused else plain
            for size in dict.fromkeys(way.batch_sizes):
                images = precision.to_memory_format(torch.randn(size, shape[0], shape[1], shape[1]))
                found = cases_met(model, images, way.dtype, way.training)
                calls.update(case.forms for case in found)
                absent.update(str(case) for case in found if case not in measured)
    return {
        "space": name,
        "resolution": config.proxy.resolution,
        "networks": num_networks,
        "ways": [
            f"{way.batch_sizes} images, {'training' if way.training else 'inference'}, {way.dtype}" for way in ways
        ],
        "cases_measured": dict(Counter(case.forms for case in measured)),
        "calls": dict(calls),
        "missing": dict(absent),
        "cpu_seconds": round(time.process_time() - begin),
    }


def main(num_networks: int, out: Path, names: list[str]) -> None:
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    if interpreted():
        precision.memory_format = lambda device: torch.channels_last
    for name in names or list(CHANNELS):
        rows = [row for row in rows if row["space"] != name.partition("@")[0]] + [coverage(name, num_networks)]
        about = {"torch": torch.__version__, "with_our_kernels": interpreted(), "seed": 0}
        out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        measured, calls, missing = (sum(rows[-1][key].values()) for key in ("cases_measured", "calls", "missing"))
        print(f"{name}: {measured} cases, {calls} calls of {num_networks} networks, {missing} missing", flush=True)
    sys.exit(1 if any(row["missing"] for row in rows) else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
