"""What a run found, from its files: as data, as a table of text, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas.base.errors import UserError
from nas.runs.listing import is_run
from nas.runs.pareto import as_points, front, hypervolume, pareto_mask, reference_point
from nas.runs.rank_correlation import kendall
from nas.runs.reader import METRICS, Row, RunReader
from nas.runs.retrainings import retrained, selected_roles
from nas.runs.summary import summary

# checked against each other under normal and colour-blind sight, and each for 3:1 on white; grey is the baseline
OPERATOR_COLOURS = {
    "conv": "#777F88",
    "involution": "#2E9BD6",
    "odconv": "#D55E00",
    "scconv": "#00543C",
    "gnconv": "#3B1F6B",
}
FRONT_COLOUR = "#0a5c8f"
FEWEST_FOR_A_FRONT = 3


def report(run_dir: str | Path) -> dict[str, Any]:
    """What a run found, as plain data for JSON.

    Objectives are in the units of the records: top1 as a fraction, num_params and num_macs as counts. `front` is sorted
    from cheap to dear. Also for running, empty and failed runs. Raises UserError if `run_dir` is no run.
    """
    path = Path(run_dir)
    if not is_run(path):
        raise UserError(f"{path}: this is no run folder; it has no resolved.yaml and no trials/")
    run = RunReader(path).refresh()
    rows = run.ordered()
    return summary(run) | {
        "front": [_front_entry(run, row) for row in front(rows, run.objectives)],
        "hypervolume": volume_curve(run, rows),
        **_retrained(run, rows),
    }


def volume_curve(run: RunReader, rows: list[Row]) -> dict[str, Any] | None:
    """Hypervolume after each training, as a share of the box between the best values found and the reference point.

    The reference is `pareto.reference_point` of all complete trials, in the units of the records. `value` is the final
    hypervolume in those units. None below three complete trials and for a single objective, where it says nothing.
    """
    points = as_points([row for row in rows if row.state != "rejected"], run.objectives)
    known = points[~np.isnan(points).any(axis=1)]
    if len(run.objectives) < 2 or len(known) < FEWEST_FOR_A_FRONT:
        return None
    reference, ideal = reference_point(known), known.min(axis=0)
    scaled = (points - ideal) / (reference - ideal)
    best, share, shares = np.empty((0, points.shape[1])), 0.0, []
    for point in scaled:
        if not np.isnan(point).any() and not (best <= point).all(axis=1).any():
            best = np.concatenate([best[~(point <= best).all(axis=1)], point[None]])
            share = hypervolume(best, np.ones(len(point)))
        shares.append(round(share, 6))
    signs = [-1 if objective.maximize else 1 for objective in run.objectives]
    names = [objective.name for objective in run.objectives]
    return {
        "reference": dict(zip(names, (reference * signs).tolist(), strict=True)),
        "value": hypervolume(known, reference),
        "share": shares,
    }


def to_text(found: dict[str, Any], width: int = 100) -> str:
    """A report as a readable text of at most `width` columns, where the tables allow."""
    lines = [f"{found['run']}: {_progress_words(found)}"]
    lines += [f"  {line}" for line in _circumstances(found)]
    if not found["front"]:
        return "\n".join([*lines, "", _why_no_front(found)])
    metrics = [name for name in METRICS if any(name in _values(entry) for entry in found["front"])]
    head = ["key", *(f"{METRICS[name].title}\n{METRICS[name].unit}" for name in metrics), "operators, stage by stage"]
    body = [
        [entry["key"], *(_shown(entry, name, found["disturbed"]) for name in metrics), _operators(entry)]
        for entry in found["front"]
    ]
    lines += ["", f"Pareto front, {_count(len(body), 'network')}:", *_table(head, body, width)]
    return "\n".join([*lines, *_retrained_lines(found, width)])


def plot(run_dir: str | Path, path: str | Path) -> None:
    """Draw the first objective against the first cost, and the operators along the front, into a PNG (or PDF, SVG).

    Raises UserError if there is nothing to draw or the ending of `path` is no picture format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = RunReader(run_dir).refresh()
    rows = [row for row in run.ordered() if row.state == "complete"]
    members = front(rows, run.objectives)
    if not members:
        raise UserError(f"{run.path}: {_why_no_front(summary(run))}")
    formats = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in formats:
        raise UserError(f"{path}: allowed endings are {', '.join(sorted(formats))}")
    y = next((o.name for o in run.objectives if o.maximize), run.objectives[0].name)
    x = next((o.name for o in run.objectives if o.name != y), "num_params")
    figure = Figure(figsize=(8, 6.4), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3, 1])
    _draw_cloud(above, run, rows, members, x, y)
    _draw_operators(below, run, members)
    figure.savefig(path)


def _retrained(run: RunReader, rows: list[Row]) -> dict[str, Any]:
    """The retrained networks of the run, the best first, and how their order agrees with the proxy's."""
    proxies = {row.key: row.value("top1") for row in rows if row.state == "complete"}
    roles = selected_roles(run.path)
    entries = [
        {"key": key, "role": roles.get(key), "proxy_top1": proxies.get(key), "top1": training["top1"]}
        | {name: training[name] for name in ("best_top1", "epochs", "asked", "done")}
        for key, training in retrained(run.path).items()
    ]
    entries.sort(key=lambda entry: (-entry["top1"], entry["key"]))
    pairs = [(e["proxy_top1"], e["top1"]) for e in entries if e["done"] and e["proxy_top1"] is not None]
    return {"retrained": entries, "agreement": kendall(pairs)}


def _retrained_lines(found: dict[str, Any], width: int) -> list[str]:
    if not found["retrained"]:
        return []
    head = ["key", "proxy\n%", "retrained\n%", "epochs", "chosen as"]
    body = [
        [
            entry["key"],
            METRICS["top1"].text(entry["proxy_top1"]),
            METRICS["top1"].text(entry["top1"]),
            f"{entry['epochs']:.0f}" + ("" if entry["done"] else f" of {entry['asked'] or 0:.0f}"),
            entry["role"] or "",
        ]
        for entry in found["retrained"]
    ]
    lines = ["", f"Retrained, {_count(len(body), 'network')}:", *_table(head, body, width)]
    agreement = found["agreement"]
    if agreement:
        low, high = agreement["low"], agreement["high"]
        interval = "" if low is None else f", about 95 % between {low:.2f} and {high:.2f}"
        lines.append(f"  proxy against retrained: Kendall's tau {agreement['tau']:.2f}{interval}")
    return lines


def _front_entry(run: RunReader, row: Row) -> dict[str, Any]:
    return {
        "number": row.number,
        "key": row.key,
        "objectives": row.objectives,
        "costs": row.costs,
        "operators": [list(stage) for stage in row.operators],
        "genotype": run.record(row.number).genotype,
    }


def _progress_words(found: dict[str, Any]) -> str:
    asked = "" if found["num_trials"] is None else f" of {found['num_trials']:,}"
    counts = ", ".join(f"{count:,} {state}" for state, count in found["counts"].items() if count)
    return f"{found['state']}, {found['num_trainings']:,}{asked} trainings" + (f" ({counts})" if counts else "")


def _circumstances(found: dict[str, Any]) -> list[str]:
    """What a reader must know besides the front; nothing that is not known."""
    lines = []
    if found["sampler"]:
        lines.append(f"sampler {found['sampler']}, scheduler {found['scheduler']}, seed {found['seed']}")
    if found["device"]:
        lines.append(f"device {found['device']}")
    if found["seconds"]:
        lines.append(f"{found['seconds'] / 60:,.1f} min of trials in {found['wall_seconds'] / 60:,.1f} min")
    if found["hypervolume"]:
        lines.append(f"hypervolume {found['hypervolume']['share'][-1]:.4f} of the box that the best values span")
    for title, reasons in (("failed", found["failures"]), ("rejected", found["rejections"])):
        if reasons:
            lines.append(f"{title}: " + ", ".join(f"{kind} {count:,}" for kind, count in reasons.items()))
    if found["disturbed"]:
        shown = ", ".join(map(str, found["disturbed"][:5])) + (", ..." if len(found["disturbed"]) > 5 else "")
        lines.append(f"latency* measured while others used the device, also when repeated: of trial {shown}")
    if found["unreadable"]:
        shown = ", ".join(found["unreadable"][:5]) + (", ..." if len(found["unreadable"]) > 5 else "")
        lines.append(f"{_count(len(found['unreadable']), 'unreadable record')} left out: {shown}")
    if found["problem"]:
        lines.append(f"the experiment cannot be read: {found['problem']}")
    return lines


def _why_no_front(found: dict[str, Any]) -> str:
    counts = found["counts"]
    if not sum(counts.values()):
        return "No trial has finished yet."
    if counts["failed"] and counts["failed"] == found["num_trainings"]:
        return "Every training failed: " + ", ".join(f"{kind} ({n})" for kind, n in found["failures"].items())
    return "No trial was trained to the end yet, so there is no front."


def _values(entry: dict[str, Any]) -> dict[str, float]:
    return entry["costs"] | entry["objectives"]


def _shown(entry: dict[str, Any], name: str, disturbed: list[int]) -> str:
    """A value of a member of the front, with a mark where it is a latency that others slowed."""
    mark = "*" if name == "latency_ms" and entry["number"] in disturbed else ""
    return METRICS[name].text(_values(entry).get(name)) + mark


def _operators(entry: dict[str, Any]) -> str:
    """Such as `conv3 inv7×2 | gn3`: neighbours with the same label are counted, stages are divided."""
    return " | ".join(
        " ".join(f"{label}×{n}" if n > 1 else label for label, n in runs(stage)) for stage in entry["operators"]
    )


def runs(labels: list[str] | tuple[str, ...]) -> list[tuple[str, int]]:
    """Neighbours with the same label as one, with their number."""
    result: list[tuple[str, int]] = []
    for label in labels:
        if result and result[-1][0] == label:
            result[-1] = (label, result[-1][1] + 1)
        else:
            result.append((label, 1))
    return result


def _table(head: list[str], body: list[list[str]], width: int) -> list[str]:
    """Columns of text: the first and the last flush left, figures between them flush right; the last one is cut."""
    titles = [title.split("\n") for title in head]
    rows = [[title[i] if i < len(title) else "" for title in titles] for i in range(max(map(len, titles)))] + body
    sizes = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = max(width - sum(sizes[:-1]) - 2 * len(sizes), 24)
    lines = []
    for row in rows:
        last = row[-1] if len(row[-1]) <= left else row[-1][: left - 1] + "…"
        cells = [
            row[0].ljust(sizes[0]),
            *(text.rjust(size) for text, size in zip(row[1:-1], sizes[1:-1], strict=True)),
            last,
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    axes.scatter(*dots.T, s=24, color=FRONT_COLOUR, zorder=3, label=f"{len(dots):,} on the front")
    axes.set(xlabel=METRICS[x].label, ylabel=METRICS[y].label, title=f"{run.name}: accuracy against cost")
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")


def _draw_operators(axes: Any, run: RunReader, members: list[Row]) -> None:
    """One column per member of the front from cheap to dear, one cell per block from input to output."""
    from matplotlib.patches import Patch, Rectangle

    used = []
    for column, row in enumerate(members):
        level = 0.0
        for stage in row.operators:
            for label in stage:
                kind = run.kinds[label]
                used.append(kind)
                axes.add_patch(Rectangle((column + 0.05, level), 0.9, 0.9, color=OPERATOR_COLOURS[kind], linewidth=0))
                level += 1
            level += 0.35
    tallest = max(sum(map(len, row.operators)) + 0.35 * len(row.operators) for row in members)
    axes.set(xlim=(0, len(members)), ylim=(tallest, 0), ylabel="block", yticks=[], xticks=[])
    axes.set_xlabel("networks of the front, cheap to dear; blocks from input (top) to output, a gap after each stage")
    axes.spines[:].set_visible(False)
    patches = [Patch(color=colour, label=kind) for kind, colour in OPERATOR_COLOURS.items() if kind in used]
    axes.legend(handles=patches, frameon=False, ncols=len(patches), loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
