"""predictions: what the surrogate's model says of trials that it has not seen, beside what was measured of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runs.findings.trust import TRUSTED, ranked_alike
from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord
from nas.search.audit.estimates import estimated_latency
from nas.search.audit.trials import Positions, complete_trials
from nas.search.surrogate.model import Ensemble

Array = NDArray[np.float64]
Places = NDArray[np.int64]

FEWEST, FEWEST_TAUGHT, FOLDS, GROWTH = 16, 6, 10, 1.1
COUNTED = ("num_params", "num_macs")
MOST_MISSES = 5
NORMAL_95 = 1.96


def predictions(run: RunReader) -> dict[str, Any] | None:
    """Of each objective that is measured, what the model predicts of trials that it was not fitted to.

    In a run of the sampler `surrogate` (`in_order`) a trial is predicted from those that had ended before it began, by
    a model that is fitted anew whenever these have become a tenth more; in others from the trials of the other nine
    of ten parts, drawn at random. `trials` have number, key, what was `predicted`, the `margin`, half the 95 % interval
    of one training, and what was `measured`, in the units of the records. `tau` is Kendall's between both, with its
    interval; `median_error` the error in the middle, `inside` the share of trials within their intervals; `words` says
    that. `misses` are the numbers of the trials that are farthest outside of theirs, measured in margins. None for
    fewer than FEWEST complete trials, or without the file of the experiment.
    """
    told = complete_trials(run, FEWEST)
    if told is None or run.config is None:
        return None
    space, records = told
    in_order = run.config.search.sampler == "surrogate"
    positions, table = Positions(space), estimated_latency(run, space)
    rows = positions.rows([record.params for record in records])
    found = {}
    for objective in run.objectives:
        values = np.array([record.objectives.get(objective.name, np.nan) for record in records])
        if objective.name in COUNTED or not np.isfinite(values).all():
            continue
        scales = np.full(len(records), -1.0 if objective.maximize else 1.0)
        is_quotient = False
        if objective.name == "latency_ms" and table is not None:
            scales, is_quotient = np.array([table(record.params) for record in records]), True
        middle, spread = np.full((2, len(records)), np.nan)
        for taught, asked in _in_order(records) if in_order else _parts(len(records)):
            model = Ensemble(
                positions.sizes, positions.numeric, rows[taught], values[taught] / scales[taught], plain_log=is_quotient
            )
            middle[asked], spread[asked] = model.predict(rows[asked], noisy=True)
        middle, spread = middle * scales, spread * np.abs(scales)
        there = np.flatnonzero(np.isfinite(middle))
        if len(there) >= FEWEST // 2 and np.ptp(values[there]) > 0 and np.ptp(middle[there]) > 0:
            asked = [records[at] for at in there]
            found[objective.name] = _judged(objective.name, asked, middle[there], spread[there], values[there])
    return {"in_order": in_order, "objectives": found} if found else None


def _in_order(records: Sequence[TrialRecord]) -> Iterator[tuple[Places, Places]]:
    """Trials to learn from, and those that began after these had ended and before as many more had."""
    begun, ended = (np.array([getattr(record, name) for record in records]) for name in ("started", "finished"))
    order = np.argsort(begun, kind="stable")
    known = np.searchsorted(np.sort(ended), begun[order])  # how many had ended before each began
    at = int(np.searchsorted(known, FEWEST_TAUGHT))
    while at < len(order):
        behind = max(int(np.searchsorted(known, GROWTH * known[at])), at + 1)
        yield np.flatnonzero(ended < begun[order[at]]), order[at:behind]
        at = behind


def _parts(count: int) -> Iterator[tuple[Places, Places]]:
    """All trials but a part of them, and that part."""
    order = np.random.default_rng(0).permutation(count)
    for part in np.array_split(order, FOLDS):
        yield np.setdiff1d(order, part), part


def _judged(name: str, records: Sequence[TrialRecord], predicted: Array, spread: Array, measured: Array) -> dict:
    margin, error = NORMAL_95 * spread, np.abs(measured - predicted)
    outside = error / margin
    order = np.argsort(-outside, kind="stable")[:MOST_MISSES]
    found = ranked_alike(predicted, measured) | {
        "median_error": float(np.median(error)),
        "inside": float(np.mean(outside <= 1)),
        "trials": [
            {"number": record.number, "key": record.key, "predicted": one, "margin": half, "measured": value}
            for record, one, half, value in zip(
                records, predicted.tolist(), margin.tolist(), measured.tolist(), strict=True
            )
        ],
        "misses": [records[at].number for at in order if outside[at] > 1],
    }
    return found | {"words": _words(name, found)}


def _words(name: str, found: dict[str, Any]) -> str:
    metric = METRICS[name]
    how = "well" if found["low"] >= TRUSTED else "roughly" if found["low"] > 0 else "no better than chance"
    return (
        f"{metric.title}: ranks networks {how} (tau {found['tau']:.2f}, 95 % between {found['low']:.2f} and "
        f"{found['high']:.2f}); half of {len(found['trials'])} predictions are within "
        f"{metric.text(found['median_error'])} {metric.unit}; {100 * found['inside']:.0f} % of what was measured lies "
        "in its 95 % interval"
    )
