"""A table of trained networks, with made-up figures."""

from __future__ import annotations

import json
from pathlib import Path

from nas.bench.search.table import header_of, networks
from nas.config.reading import load_experiment

EXPERIMENT = Path(__file__).parents[2] / "scripts/search_table.yaml"


def write_table(path: Path, header: dict | None = None, without: str = "") -> Path:
    """A table of the real space with made-up figures."""
    config, found = load_experiment(EXPERIMENT)
    lines = [header_of(config, {}) | (header or {})]
    for net in range(len(networks(found))):
        top1 = [round(0.1 + 0.001 * net * epoch / 9, 4) for epoch in range(1, 10)]
        lines += [{"net": net, "seed": seed, "top1": top1} for seed in range(2) if without != "seed"]
        lines += [{"net": net, "latency_ms": 1.0 + net % 7}] if without != "latency_ms" else []
        lines.append({"net": net, "num_params": 1000 + net, "num_macs": 2000 - net})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"net": 3, "se')  # killed while it wrote
    return path
