"""What a run's table of parts says of the latency of a network: what the surrogate began with."""

from __future__ import annotations

import json
from collections.abc import Callable

from nas.base.extensions import is_own
from nas.runs.folder import LATENCY_TABLE
from nas.runs.reader import GARBLED, RunReader
from nas.search.audit.trials import Params
from nas.space.search_space import SearchSpace


def has_own_parts(run: RunReader) -> bool:
    """Whether networks or images of a run are made by code of others, which is not run where a run is looked at."""
    if run.config is None:
        return True
    space = run.config.space
    kinds = [
        kind for stage in space.stages for kind in (stage.block if isinstance(stage.block, list) else [stage.block])
    ]
    return any(map(is_own, [run.config.proxy.dataset, *(op.op for op in space.operators.values()), *kinds]))


def estimated_latency(run: RunReader, space: SearchSpace) -> Callable[[Params], float] | None:
    """The milliseconds of a network as the sum of its parts', for a run that began with a table of these; else None."""
    path = run.path / LATENCY_TABLE
    if run.config is None or not path.exists() or has_own_parts(run):
        return None
    from nas.search.surrogate.known_costs import SHAPES, KnownCosts  # which imports torch

    try:
        parts = {str(name): float(ms) for name, ms in json.loads(path.read_text(encoding="utf-8"))["parts"].items()}
    except GARBLED:
        return None
    channels, _ = SHAPES.get(run.config.proxy.dataset, (3, 0))
    costs = KnownCosts(space, run.config.proxy.resolution, channels, 1, parts)
    return lambda params: costs.estimated(params)["latency_ms"]
