"""trust: whether the short training of a search ranks networks as longer ones do, from those that were trained so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.config.evaluators import trained_value
from nas.runs.folder import LONGER
from nas.runs.listing import is_run
from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.trial_table import Row

FEWEST, DRAWS, TOP = 8, 2000, 5
LIKELY, SURE, TRUSTED = 0.8, 0.95, 0.4
COUNTED = ("num_macs", "num_params")
Array = NDArray[np.float64]


def trust(run: RunReader) -> list[dict[str, Any]]:
    """What each kind of longer training that was tried says of the run's own, those of most networks first.

    `tau` is Kendall's tau-b between the accuracies of the short and of the longer training, with an interval of 95 % by
    bootstrap over networks; `counted` the same of what is counted without any training; `better` the probability that
    the short training ranks better than the best of these. `regret` is by how much the best network of the longer
    training is better than the best of those that the short one ranks among its first TOP. `bias` has, per label, the
    change of accuracy that the longer training brings to a network of that operator alone, less the mean change, with
    half its interval: positive where the short training underrates an operator. `verdict` is one sentence; `settings`
    has what differs from the short training.
    """
    folders = [path for path in (run.path / LONGER).glob("*") if is_run(path)]
    found = [_judged(run, RunReader(path).refresh()) for path in sorted(folders)]
    return sorted(found, key=lambda one: -one["num_networks"])


def ranked_alike(one: Array, other: Array) -> dict[str, float]:
    """Kendall's tau-b between two values [N] of the same networks, with an interval of 95 % by bootstrap over these."""
    return _interval(_taus(one, other, _drawn(len(one))))


def _judged(run: RunReader, longer: RunReader) -> dict[str, Any]:
    of_run = {row.key: row for row in run.ordered() if row.state == "complete"}
    pairs = [(of_run[row.key], row) for row in longer.ordered() if row.state == "complete" and row.key in of_run]
    found: dict[str, Any] = {
        "name": longer.name,
        "settings": _settings(run, longer),
        "num_networks": len(pairs),
        "num_failed": int(longer.rows.in_state("failed").sum()),
    }
    if len(pairs) < FEWEST:
        return found | {"verdict": f"too few networks: {len(pairs)} of at least {FEWEST}"}
    first, last = (np.array([trained_value(pair[side].objectives) for pair in pairs]) for side in (0, 1))
    drawn = _drawn(len(pairs))
    short_taus, others = _taus(first, last, drawn), {}
    for name in COUNTED:
        counts = [row.value(name) for row, _ in pairs]
        if None not in counts:
            others[name] = _taus(np.array(counts, float), last, drawn)
    best = max(others, key=lambda name: others[name][0], default=None)
    better = float(np.mean(short_taus[1:] > others[best][1:])) if best else None
    tau = _interval(short_taus)
    top = np.argsort(-first, kind="stable")[:TOP]
    return found | {
        "tau": tau,
        "counted": {name: _interval(values) for name, values in others.items()},
        "better": better,
        "regret": float(last.max() - last[top].max()),
        "bias": _bias([row for row, _ in pairs], last - first, drawn),
        "verdict": _verdict(tau, best, better),
    }


def _settings(run: RunReader, longer: RunReader) -> dict[str, Any]:
    """The entries of `proxy` that differ, with the longer training's values."""
    if run.config is None or longer.config is None:
        return {}
    before, after = (reader.proxy.model_dump(mode="json") for reader in (run.config, longer.config))
    return {name: value for name, value in after.items() if value != before.get(name)}


def _drawn(count: int) -> Array:
    """How often each of the networks is drawn: [1 + DRAWS, count], first each once."""
    draw = np.random.default_rng(0)
    times = draw.multinomial(count, np.full(count, 1 / count), DRAWS).astype(np.float64)
    return np.concatenate([np.ones((1, count)), times])


def _taus(one: Array, other: Array, drawn: Array) -> Array:
    """tau-b for every draw: [number of draws], NaN where a draw has no order."""
    first, second = _signs(one), _signs(other)
    agreeing, ordered, ranked = (_weighted(pairs, drawn) for pairs in (first * second, abs(first), abs(second)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return agreeing / np.sqrt(ordered * ranked)


def _signs(values: Array) -> Array:
    """Which of each two is greater: [N, N]."""
    return np.sign(values[:, None] - values).astype(np.float64)


def _weighted(pairs: Array, drawn: Array) -> Array:
    """Sum over all pairs of networks, each as often as it is drawn."""
    return ((drawn @ pairs) * drawn).sum(1)


def _interval(taus: Array) -> dict[str, float]:
    low, high = np.nanpercentile(taus[1:], [2.5, 97.5])
    return {"tau": float(taus[0]), "low": float(low), "high": float(high)}


def _bias(rows: list[Row], changes: Array, drawn: Array) -> dict[str, dict[str, float]]:
    """By least squares of the changes on the share of each label among the blocks, against their mean."""
    labels = sorted({label for row in rows for stage in row.operators for label in stage})
    shares = np.array([_shares(row, labels) for row in rows])
    # a ridge of a tenth of a network: labels that always come together share what cannot be told apart
    ridge = 0.1 * np.eye(len(labels))
    centred = changes - changes.mean()
    fitted = np.array(
        [
            np.linalg.solve((shares.T * weights) @ shares + ridge, (shares.T * weights) @ centred)
            for weights in drawn[: 1 + DRAWS // 10]
        ]
    )
    margins = 1.96 * fitted[1:].std(axis=0, ddof=1)
    return {
        label: {"change": float(change), "margin": float(margin)}
        for label, change, margin in zip(labels, fitted[0], margins, strict=True)
    }


def _shares(row: Row, labels: list[str]) -> list[float]:
    blocks = [label for stage in row.operators for label in stage]
    return [blocks.count(label) / len(blocks) for label in labels]


def _verdict(tau: Mapping[str, float], best: str | None, better: float | None) -> str:
    said = f"tau {tau['tau']:.2f}, 95 % between {tau['low']:.2f} and {tau['high']:.2f}"
    if best is None or better is None:  # nothing was counted
        return f"{'trusted' if tau['low'] >= TRUSTED else 'weak'}: {said}"
    what = METRICS[best].title
    said += f"; it ranks better than {what} do with a probability of {better:.2f}"
    if better < LIKELY:
        return f"no better than counting {what}: {said}"
    return f"{'trusted' if tau['low'] >= TRUSTED and better >= SURE else 'weak'}: {said}"
