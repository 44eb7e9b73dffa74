"""Kendall's tau between what the search measured and what the long training reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

FEWEST = 3
FEWEST_FOR_AN_INTERVAL = 5
NORMAL_95 = 1.96


def kendall(pairs: Sequence[tuple[float, float]]) -> dict[str, float | int | None] | None:
    """tau-b of [(proxy, retrained)] with an approximate 95 % interval; None below three pairs or without any order.

    The interval is Fisher's z with the variance 0.437 / (n - 4) of Fieller, Hartley and Pearson
    (https://doi.org/10.1093/biomet/44.3-4.470), so it needs five pairs; `low` and `high` are None below.
    """
    count = len(pairs)
    signs = [(_sign(a - c), _sign(b - d)) for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]]
    across, up = (sum(pair[side] != 0 for pair in signs) for side in (0, 1))
    if count < FEWEST or not across or not up:
        return None
    tau = sum(one * other for one, other in signs) / math.sqrt(across * up)
    if count < FEWEST_FOR_AN_INTERVAL or abs(tau) >= 1:
        return {"tau": tau, "low": None, "high": None, "count": count}
    middle, margin = math.atanh(tau), NORMAL_95 * math.sqrt(0.437 / (count - 4))
    return {"tau": tau, "low": math.tanh(middle - margin), "high": math.tanh(middle + margin), "count": count}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
