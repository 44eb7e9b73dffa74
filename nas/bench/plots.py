"""A picture of what `nas bench kernels` measured: every case by every form against its floor, and whole networks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

FORMS = (
    "triton",
    "triton_mixed",
    "triton_n_fold",
    "aten",
    "channels_last",
    "contiguous",
    "unfold",
    "fft",
    "cudnn_fused",
    "published",
    "cupy_one_thread",
    "torch_compile",
)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draws the content of a file of `nas bench kernels` to `path` (png, svg or pdf)."""
    from matplotlib.figure import Figure

    cases: dict[str, dict[str, float]] = defaultdict(dict)
    for row in found["rows"]:
        if "times_floor" in row:
            size = "x".join(map(str, (row["images"], row["channels"], *row["size"])))
            kind = "tf32" if row["tf32"] else row["dtype"]
            cases[f"{row['op']} {row['pass']} {size} K={row['kernel'][0]} {kind}"][row["form"]] = row["times_floor"]
    models = [row for row in found["models"] if "images_per_second" in row]
    heights = (1 + 0.25 * len(cases), 1 + 0.3 * len(models))
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=heights)
    for form in FORMS:
        rows = [i for i, times in enumerate(cases.values()) if form in times]
        values = [times[form] for times in cases.values() if form in times]
        if values:
            above.plot(values, rows, "D" if form.startswith("triton") else "o", markersize=5, label=form)
    above.set(xscale="log", xlabel="time / what the measured ceilings allow", title=found["environment"]["device"])
    above.set_yticks(range(len(cases)), list(cases), fontsize=7)
    above.invert_yaxis()
    above.grid(axis="x", alpha=0.4)
    if cases:
        above.legend(fontsize=7)
    names = [f"{row['network']} {row['mode']} {row['form']}, batch {row['batch_size']}" for row in models]
    below.barh(range(len(models)), [row["images_per_second"] for row in models])
    below.set_yticks(range(len(models)), names, fontsize=7)
    below.set(xlabel="images per second")
    below.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
