"""effects: what an operator does to accuracy and cost, stage by stage, from a linear model on all trials of a run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.trial_table import places

SPARE_TRIALS = 10
NORMAL_95 = 1.96
DETERMINED = 1e-6
Model = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def effects(run: RunReader) -> dict[str, Any] | None:
    """Per stage and label: the change of each metric when one block of the stage goes from the baseline to the label.
    Neck and head of a detector count as stages of one block; `place` is what each is called.

    Ordinary least squares of the metric on the number of blocks of each label in each stage. The baseline is the label
    that most trials use, plain convolutions first. Intervals are those of 95 %. It describes the trials that this
    search drew; width, depth and block kind, which it does not see, may stand behind a difference. None where there
    are too few complete trials.
    """
    table = run.rows
    complete = np.flatnonzero(table.in_state("complete"))
    used = [table.operators[at] for at in complete.tolist()]
    if not used or len({len(stages) for stages in used}) != 1:
        return None
    stages = np.array(used)  # [N, number of stages]
    labels = sorted(set(chain.from_iterable(table.stages[stage] for stage in np.unique(stages))))
    counts = np.array([[stage.count(label) for label in labels] for stage in table.stages])
    blocks = counts[stages]  # [N, number of stages, number of labels]
    baseline = _baseline(blocks, labels, run.kinds)
    models = {name: _fit(blocks, table.measured(name)[complete]) for name in METRICS}
    rows = _rows({name: model for name, model in models.items() if model}, stages.shape[1], labels, baseline)
    names = places(len(table.shapes[complete[0]]), stages.shape[1])
    rows = [{"place": names[row["stage"]]} | row for row in rows]
    return {"baseline": baseline, "num_trials": len(complete), "rows": rows} if rows else None


def _baseline(blocks: NDArray[np.int64], labels: list[str], kinds: Mapping[str, str]) -> str:
    """The label that most trials use, plain convolutions first."""
    plain = [label for label in labels if kinds[label] == "conv"]
    return max(plain or labels, key=lambda label: int((blocks[:, :, labels.index(label)] > 0).sum()))


def _rows(models: Mapping[str, Model], num_stages: int, labels: list[str], baseline: str) -> list[dict[str, Any]]:
    """Per stage and label, what the trials determine of the change of each metric."""
    rows, base = [], labels.index(baseline)
    for stage, (index, label) in product(range(num_stages), enumerate(labels)):
        if label == baseline:
            continue
        columns = stage * len(labels) + index, stage * len(labels) + base
        changes = {name: change for name, model in models.items() if (change := _change(model, *columns))}
        if changes:
            rows.append({"stage": stage, "label": label, "changes": changes})
    return rows


def _fit(blocks: NDArray[np.int64], values: NDArray[np.float64]) -> Model | None:
    """Coefficients, their covariance, and the projection on what the trials determine; None for too few trials."""
    measured = ~np.isnan(values)
    design = blocks[measured].reshape(int(measured.sum()), blocks.shape[1] * blocks.shape[2]).astype(float)
    design = np.column_stack([design, np.ones(len(design))])
    normal = design.T @ design
    left = len(design) - int(np.linalg.matrix_rank(normal))
    if left < SPARE_TRIALS:
        return None
    # where depths are fixed the counts of a stage sum to a constant: single coefficients are free, differences are not
    inverse = np.linalg.pinv(normal, hermitian=True)
    fitted = inverse @ (design.T @ values[measured])
    variance = float(((values[measured] - design @ fitted) ** 2).sum()) / left
    return fitted, variance * inverse, inverse @ normal


def _change(model: Model, column: int, base: int) -> dict[str, float] | None:
    """The difference of two coefficients with half its 95 % interval; None where the trials do not determine it."""
    fitted, covariance, projection = model
    contrast = np.zeros(len(fitted))
    contrast[column], contrast[base] = 1, -1
    if np.abs(projection @ contrast - contrast).max() > DETERMINED:
        return None
    return {
        "change": float(contrast @ fitted),
        "margin": NORMAL_95 * float(max(contrast @ covariance @ contrast, 0)) ** 0.5,
    }
