"""Seconds (wall) that build_model takes for every published network, in rounds over all of them in one process.

python scripts/bench_building.py [--rounds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from nas.networks.model import build_model
from nas.networks.published import PUBLISHED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for _ in range(args.rounds):
        for name, times in seconds.items():
            start = time.perf_counter()
            network = build_model(PUBLISHED[name])
            times.append(time.perf_counter() - start)
            del network
    rows = {
        name: {"median": round(statistics.median(times), 3), "min": round(min(times), 3), "max": round(max(times), 3)}
        for name, times in seconds.items()
    }
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    result = {"unit": "s", "threads": torch.get_num_threads(), "rounds": args.rounds, **versions, "networks": rows}
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    slowest = sorted(rows, key=lambda name: -rows[name]["median"])[:5]
    print("\n".join(f"{name}: {rows[name]}" for name in slowest) if args.out else text)


if __name__ == "__main__":
    main()
