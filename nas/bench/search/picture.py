"""A picture of simulated searches: hypervolume against trainings and against epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.base.errors import UserError
from nas.bench.search.run import SAMPLERS, SCHEDULERS, identity

COLOURS = {
    "random": "#777F88",
    "nsga2": "#B07AA1",
    "tpe": "#F28E2B",
    "gp": "#59A14F",
    "surrogate": "#1F6FB2",
    "surrogate-told": "#17BECF",
}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw hypervolume against trainings and against epochs, a row per kind of space, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest: dict[tuple, dict[str, Any]] = {}  # the first trainings of a search do not depend on how many follow
    alone = [run for run in result["runs"] if run["workers"] == 1]
    for run in sorted(alone, key=lambda run: run["trainings"]):
        longest[identity(run)[:-1]] = run
    kinds = list(dict.fromkeys(run["space"].split()[0] for run in result["runs"]))
    if not kinds:
        raise UserError("there are no searches to draw; ask for --spaces or a --table")
    figure, rows = pyplot.subplots(len(kinds), 2, figsize=(11, 4 * len(kinds)), squeeze=False, sharey="row")
    for kind, (by_training, by_epoch) in zip(kinds, rows, strict=True):
        for sampler in SAMPLERS:
            for scheduler, style in zip(SCHEDULERS, ("-", ":", "--"), strict=True):
                runs = [
                    run
                    for run in longest.values()
                    if (run["space"].split()[0], run["sampler"], run["scheduler"]) == (kind, sampler, scheduler)
                ]
                if not runs:
                    continue
                length = min(len(run["hypervolume"]) for run in runs)
                curves = np.array([run["hypervolume"][:length] for run in runs])
                middle = curves.mean(axis=0)
                band = 1.96 * curves.std(axis=0) / max(np.sqrt(len(curves)), 1)
                label = sampler if scheduler == "none" else f"{sampler}, {scheduler}"
                epochs = np.mean([run["epochs"][:length] for run in runs], axis=0)
                for axes, x in ((by_training, np.arange(1, length + 1)), (by_epoch, epochs)):
                    axes.plot(x, middle, style, color=COLOURS[sampler], linewidth=1.5, label=label)
                    axes.fill_between(x, middle - band, middle + band, color=COLOURS[sampler], alpha=0.12, linewidth=0)
        by_training.set(xlabel="trainings begun", ylabel="share of the best hypervolume", title=f"{kind}, 95 % bands")
        by_epoch.set(xlabel="epochs trained", xscale="log", title=f"{kind}, against epochs")
        by_epoch.legend(frameon=False, fontsize=8, loc="upper left")
        for axes in (by_training, by_epoch):
            axes.grid(color="#e4e7eb", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
