"""WhatIf: what a network that somebody thinks of would reach and cost, from the trials of a run.

As a process, `python -m nas.search.audit.what_if RUN` answers questions in lines of JSON: parameters of the space in,
what `WhatIf.answer` gives out. It ends with its input, or where nobody has asked for a while.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.config.evaluators import TRAINED
from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord
from nas.search.audit.estimates import estimated_latency, has_own_parts
from nas.search.audit.trials import MOST_TRIALS, Params, Positions, drawn, records_of
from nas.search.surrogate.model import Ensemble
from nas.space import specs
from nas.space.search_space import SearchSpace
from nas.space.training import key_of

if TYPE_CHECKING:
    from nas.search.surrogate.known_costs import KnownCosts

FEWEST, MORE, IDLE_SECONDS = 10, 1.1, 600.0
COUNTED = ("num_params", "num_macs")
NORMAL_95 = 1.96


class WhatIf:
    """The models of a run, fitted anew when its trials have become a tenth more. Raises ValueError for a run without
    the file of its experiment."""

    def __init__(self, run: RunReader):
        if run.config is None:
            raise ValueError(run.problem or f"{run.path}: there is no experiment")
        self.run, self.config = run, run.config
        self.space = SearchSpace(run.config.space, run.config.proxy.choices())
        self.positions = Positions(self.space)
        self._fitted = 0
        self._models: dict[str, Ensemble] = {}
        self._latency = estimated_latency(run, self.space)
        self._exact: KnownCosts | None = None

    def answer(self, params: Params) -> dict[str, Any]:
        """`problems`, sentences why there is no such network here; else `predicted`, by name `value`, `margin` (half of
        the 95 % interval of one training or measurement) and whether it is `exact`, counted from the network;
        `limits`, sentences about limits of the search that it breaks; and `trial`, number and measured `values` of the
        complete trial that trained the same, or None.
        """
        if found := list(self._problems(params)):
            return {"problems": found}
        self.run.refresh()
        self._fit()
        predicted = self._predicted(params)
        return {
            "problems": [],
            "predicted": predicted,
            "limits": list(self._limits(predicted)),
            "trial": self._trained(params),
        }

    def _problems(self, params: Params) -> Iterator[str]:
        choices = self.positions.choices
        if missing := choices.keys() - params.keys():
            yield f"parameters are missing: {', '.join(sorted(missing))}"
            return
        # how many operators there are depends on the depth
        wrong = [name for name in choices if ".operator" not in name and params[name] not in choices[name]]
        wrong = wrong or [name for name, value in self.space.active(params).items() if value not in choices[name]]
        for name in wrong:
            value, place = params[name], _in_words(name)
            spec = self.config.space.operators.get(str(value)) if ".operator" in name else None
            block = str(params[f"{'.'.join(name.split('.')[:2])}.block"]) if spec else ""
            if spec and not specs.fits(block, spec):
                yield f"{place}: {value} fits no {block.replace('_', ' ')} block: {specs.what_fits(block)}"
            else:
                yield f"{place}: {value} is not offered by this space; it has {', '.join(map(str, choices[name]))}"

    def _fit(self) -> None:
        count = len(self.run.rows)
        if self._fitted and count < MORE * self._fitted:
            return
        self._fitted = count
        rows = self.run.rows
        complete, numbers = rows.in_state("complete"), rows.column("number")
        chosen = drawn(numbers[complete], MOST_TRIALS)
        # of trainings that were not finished, and of networks that were only measured, the costs are known
        chosen += drawn(numbers[~complete], MOST_TRIALS - len(chosen))
        records = records_of(self.run, self.space, chosen)
        places, found = self.positions.rows([record.params for record in records]), {}
        for name in METRICS:
            values = np.array([_value(record, name) for record in records])
            there = np.flatnonzero(np.isfinite(values))
            if len(there) >= FEWEST:
                of_table = [self._scale(name, records[at].params) for at in there]
                found[name] = Ensemble(
                    self.positions.sizes,
                    self.positions.numeric,
                    places[there],
                    values[there] / np.array(of_table),
                    plain_log=self._is_quotient(name),
                )
        self._models = found
        self._exact = exact_costs(self.run, self.space, records)

    def _predicted(self, params: Params) -> dict[str, dict[str, Any]]:
        row, found = self.positions.rows([params]), {}
        for name, model in self._models.items():
            middle, spread = model.predict(row, noisy=True)
            scale = self._scale(name, params)
            margin = NORMAL_95 * float(spread[0]) * abs(scale)
            found[name] = {"value": float(middle[0]) * scale, "margin": margin, "exact": False}
        for name, value in self._exact(params).items() if self._exact else ():
            found[name] = {"value": value, "margin": 0.0, "exact": True}
        return found

    def _is_quotient(self, name: str) -> bool:
        return name == "latency_ms" and self._latency is not None

    def _scale(self, name: str, params: Params) -> float:
        """What a value is divided by for its model, of which less is better: an accuracy changes its sign, and a
        latency is told as a multiple of what the table of parts says, where the run began with one."""
        if name == "latency_ms" and self._latency is not None:
            return self._latency(params)
        return -1.0 if name in TRAINED else 1.0

    def _limits(self, predicted: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        for name, bound in self.config.constraints.items():
            if name not in predicted:
                continue
            value, metric = predicted[name]["value"], METRICS[name]
            sure = "is" if predicted[name]["exact"] else "is probably"
            for limit, what, broken in (
                (bound.max, "above", bound.max is not None and value > bound.max),
                (bound.min, "below", bound.min is not None and value < bound.min),
            ):
                if broken:
                    yield f"{metric.title} {sure} {what} the limit of the search, {metric.text(limit)} {metric.unit}"

    def _trained(self, params: Params) -> dict[str, Any] | None:
        key, rows = key_of(self.space.decode(params), self.space.active(params)), self.run.rows
        complete = rows.in_state("complete")
        for at, known in enumerate(rows.keys):
            if known == key and complete[at]:
                row = rows.row(at)
                return {"number": row.number, "values": row.costs | row.objectives}
        return None


def exact_costs(run: RunReader, space: SearchSpace, records: list[TrialRecord]) -> KnownCosts | None:
    """Parameters and multiply-accumulates of any network of the space, or None where they cannot be counted here as
    they were in the records: with operators or data of others, whose code is not run, or by another version.

    The number of classes follows from a record: each has as many parameters of the head.
    """
    from nas.search.surrogate.known_costs import SHAPES, KnownCosts  # which imports torch

    config = run.config
    known = [record for record in records if all(_value(record, name) > 0 for name in COUNTED)]
    if config is None or not known or has_own_parts(run):
        return None
    channels, _ = SHAPES.get(config.proxy.dataset, (3, 0))
    first, side = known[0], config.proxy.resolution
    one, two = (KnownCosts(space, side, channels, classes)(first.params)["num_params"] for classes in (1, 2))
    more, rest = divmod(int(_value(first, "num_params")) - one, two - one)
    if more < 0 or rest:
        return None
    found = KnownCosts(space, side, channels, 1 + more)
    alike = all(found(record.params)[name] == _value(record, name) for record in known[:3] for name in COUNTED)
    return found if alike else None


def _value(record: TrialRecord, name: str) -> float:
    """NaN where it was not measured; an accuracy counts at the end of a training only."""
    if name in TRAINED and record.state != "complete":
        return np.nan
    found = record.objectives.get(name, record.costs.get(name))
    return float(found) if isinstance(found, int | float) else np.nan


def _in_words(name: str) -> str:
    """`stages.1.blocks.0.operator.basic` as `stage 2, block 1`."""
    parts = name.split(".")
    if parts[0] != "stages":
        return parts[-1].replace("_", " ")
    place = f"stage {int(parts[1]) + 1}"
    return f"{place}, block {int(parts[3]) + 1}" if parts[2] == "blocks" else place


def main() -> None:
    """Answer questions until the input ends."""
    what_if = WhatIf(RunReader(sys.argv[1]).refresh())
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
        if not line:
            return
        print(json.dumps(what_if.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    main()
