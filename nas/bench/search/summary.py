"""What the simulated searches of a file found, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def summary(result: dict[str, Any], at: Sequence[int] = (25, 50, 100)) -> list[dict[str, Any]]:
    """Per kind of space, sampler and scheduler: mean share of the hypervolume with a 95 % bootstrap interval of it."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        kind = run["space"].split()[0]
        names = (run["scheduler"], run["sampler"], run["trainings"], run["workers"])
        groups.setdefault((kind, *names), []).append(run)
    lines = []
    for (kind, scheduler, sampler, trainings, workers), runs in groups.items():
        line: dict[str, Any] = {"space": kind, "scheduler": scheduler, "sampler": sampler, "runs": len(runs)}
        for count in at:
            if count <= min(len(run["hypervolume"]) for run in runs):  # a search may end before, by its epochs
                mean, low, high = interval([run["hypervolume"][count - 1] for run in runs])
                line[f"at {count}"] = [round(mean, 4), round(low, 4), round(high, 4)]
        line |= {"trainings": trainings, "workers": workers}
        line["epochs"] = round(float(np.mean([run["epochs"][-1] for run in runs])), 1)
        line["suggest_cpu_s"] = np.round(np.mean([run["suggest_cpu_s"] for run in runs], axis=0), 4).tolist()
        lines.append(line)
    return lines


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the 95 % interval of it by the bootstrap."""
    array = np.asarray(values, float)
    draws = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def to_text(result: dict[str, Any]) -> str:
    lines = [
        "space      scheduler  sampler    runs  share of the best hypervolume (95 % interval of the mean) at trainings"
    ]
    for line in summary(result):
        shares = "  ".join(
            f"{name[3:]}: {value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})"
            for name, value in line.items()
            if name.startswith("at ")
        )
        at_once = f", {line['workers']} at once" if line["workers"] > 1 else ""
        epochs = f"{line['trainings']} in {line['epochs']:,.0f} epochs{at_once}"
        lines.append(
            f"{line['space']:<10} {line['scheduler']:<10} {line['sampler']:<10} {line['runs']:>4}  {shares}  {epochs}"
        )
    return "\n".join(lines)
