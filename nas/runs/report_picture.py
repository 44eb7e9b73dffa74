"""A picture of a run: accuracy against cost, and the operators of the networks on the front."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.base.errors import UserError
from nas.config.evaluators import TRAINED
from nas.runs.metrics import METRICS
from nas.runs.noise.of_run import noise_of
from nas.runs.pareto import front, pareto_mask
from nas.runs.reader import RunReader
from nas.runs.report import FEWEST_FOR_A_FRONT
from nas.runs.report_text import why_no_front
from nas.runs.summary import summary
from nas.runs.trial_table import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# checked against each other under normal and colour-blind sight, and each for 3:1 on white; grey is the baseline
OPERATOR_COLOURS = {
    "conv": "#777F88",
    "involution": "#2E9BD6",
    "odconv": "#D55E00",
    "scconv": "#00543C",
    "gnconv": "#3B1F6B",
}
# of operators of others, in the order in which they come up in a run
OWN_COLOURS = ("#6D0FF9", "#3C0202", "#291425", "#854085")
FRONT_COLOUR = "#0a5c8f"


def plot(run_dir: str | Path, path: str | Path | None = None) -> Figure:
    """Draw the first objective against the first cost, and the operators along the front; into a PNG (or PDF, SVG) if
    `path` is given. A notebook shows what is returned.

    Raises UserError if there is nothing to draw or the ending of `path` is no picture format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            """What a notebook shows, also where pyplot, which else arranges that, was never imported."""
            self.savefig(png := BytesIO(), format="png")
            return png.getvalue()

    run = RunReader(run_dir).refresh()
    rows = [row for row in run.ordered() if row.state == "complete"]
    members = front(rows, run.objectives)
    if not members:
        raise UserError(f"{run.path}: {why_no_front(summary(run))}")
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path is not None and Path(path).suffix[1:].lower() not in formats:
        raise UserError(f"{path}: allowed endings are {', '.join(sorted(formats))}")
    y = next((o.name for o in run.objectives if o.maximize), run.objectives[0].name)
    x = next((o.name for o in run.objectives if o.name != y), "num_params")
    figure = Picture(figsize=(8, 6.4), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 1])
    _draw_cloud(above, run, rows, members, x, y)
    _draw_operators(below, run, members)
    if path is not None:
        figure.savefig(path)
    return figure


def operator_colours(kinds: Iterable[str]) -> dict[str, str]:
    """A colour for each of the package's operators, and for those of others among `kinds`; of many, some share one."""
    own = [kind for kind in dict.fromkeys(kinds) if kind not in OPERATOR_COLOURS]
    return OPERATOR_COLOURS | {kind: OWN_COLOURS[i % len(OWN_COLOURS)] for i, kind in enumerate(own)}


def _draw_cloud(axes: Any, run: RunReader, rows: list[Row], members: list[Row], x: str, y: str) -> None:
    """All complete trials, and over them the step line of the front in these two axes with its members as dots."""

    def coordinates(trials: list[Row]) -> np.ndarray:
        values = [(row.value(x), row.value(y)) for row in trials]
        return np.array(values, float).reshape(-1, 2) * [METRICS[x].scale, METRICS[y].scale]

    cloud, dots = coordinates(rows), coordinates(members)
    sense = -1 if METRICS[y].maximize else 1
    line = cloud[pareto_mask(cloud * [1, sense])]
    line = line[np.lexsort((sense * line[:, 1], line[:, 0]))]
    line = np.concatenate([line, [[cloud[:, 0].max(), line[-1, 1]]]])
    axes.scatter(*cloud.T, s=14, color="#777F88", alpha=0.5, linewidths=0, label=f"{len(cloud):,} trials")
    if len(rows) >= FEWEST_FOR_A_FRONT:
        axes.step(*line.T, where="post", color=FRONT_COLOUR, linewidth=1.5)
    if y in TRAINED and (noise := noise_of(run)):
        ends = np.array([[noise.of(row.number)[end] for row in members] for end in ("low", "high")])
        axes.vlines(
            dots[:, 0], *(METRICS[y].scale * ends), color=FRONT_COLOUR, linewidth=1, alpha=0.6, label="95 % interval"
        )
    axes.scatter(*dots.T, s=24, color=FRONT_COLOUR, zorder=3, label=f"{len(dots):,} on the front")
    title = f"{run.name}: {METRICS[y].title} against {METRICS[x].title}"
    axes.set(xlabel=METRICS[x].label, ylabel=METRICS[y].label, title=title)
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")


def _draw_operators(axes: Any, run: RunReader, members: list[Row]) -> None:
    """One column per member of the front from cheap to dear, one cell per block from input to output."""
    from matplotlib.patches import Patch, Rectangle

    colours, used = operator_colours(run.kinds.values()), []
    for column, row in enumerate(members):
        level = 0.0
        for stage in row.operators:
            for label in stage:
                kind = run.kinds[label]
                used.append(kind)
                axes.add_patch(Rectangle((column + 0.05, level), 0.9, 0.9, color=colours[kind], linewidth=0))
                level += 1
            level += 0.35
    tallest = max(sum(map(len, row.operators)) + 0.35 * len(row.operators) for row in members)
    axes.set(xlim=(0, len(members)), ylim=(tallest, 0), ylabel="block", yticks=[], xticks=[])
    axes.set_xlabel("networks of the front, cheap to dear; blocks from input (top) to output, a gap after each stage")
    axes.spines[:].set_visible(False)
    patches = [Patch(color=colour, label=kind) for kind, colour in colours.items() if kind in used]
    axes.legend(handles=patches, frameon=False, ncols=len(patches), loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
