"""Print the table of published networks in results/README.md: our counts beside the published ones."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.golden import MANIFESTS
from nas.measure.cost import conv_and_linear_macs, num_macs, num_params
from nas.networks.model import build_model
from nas.networks.published import PUBLISHED


def main() -> None:
    print("| network | parameters M | published | MACs G | conv + linear G | published |")
    print("|---|---|---|---|---|---|")
    for name, genotype in PUBLISHED.items():
        manifest = MANIFESTS.get(name, {"resolution": 224})
        published = manifest.get("published") or {}
        shape = (3, manifest["resolution"], manifest["resolution"])
        with torch.device("meta"):
            model = build_model(genotype)
        macs = f"{num_macs(model, shape) / 1e9:.3f} | {conv_and_linear_macs(model, shape) / 1e9:.3f}"
        columns = [
            name,
            f"{num_params(model) / 1e6:.2f}",
            published.get("params_M", ""),
            macs,
            published.get("flops_G", ""),
        ]
        print("| " + " | ".join(map(str, columns)) + " |", flush=True)


if __name__ == "__main__":
    main()
