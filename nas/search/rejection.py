"""Finds finished trials that dominate a candidate even at its optimistic accuracy bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.config.evaluators import trained_value
from nas.config.sections import ObjectiveConfig
from nas.runs.record import TrialRecord
from nas.search.surrogate.model import Ensemble
from nas.space.search_space import SearchSpace

FEWEST = 12
"""Complete trials before a prediction is trusted with a rejection."""
LATEST = 300


class OptimisticBound:
    """Predicts, from the complete trials, the highest accuracy that a candidate may be granted."""

    def __init__(self, space: SearchSpace, records: Sequence[TrialRecord], deviations: float):
        self._choices, self._space, self._deviations = space.choices(), space, deviations
        complete = [record for record in records if record.state == "complete" and record.params]
        self.records = complete[-LATEST:]
        self._model = None
        if len(self.records) >= FEWEST:
            sizes = [len(values) for values in self._choices.values()]
            numeric = [_is_number(values) for values in self._choices.values()]
            values = np.array([-self._accuracy(record) for record in self.records])
            rows = np.array([self._row(record.params) for record in self.records])
            self._model = Ensemble(sizes, numeric, rows, values)

    def bound(self, params: dict[str, Any]) -> float:
        """Expected accuracy and so many standard deviations, of the prediction and of a training; 1 without a model."""
        if self._model is None:
            return 1.0
        mean, spread = self._model.predict(np.array([self._row(params)]), noisy=True)
        return min(1.0, float(self._deviations * spread[0] - mean[0]))

    def dominating(self, params: dict[str, Any], objectives: Sequence[ObjectiveConfig]) -> list[dict[str, float]]:
        """The costs of trials that are at least as accurate as the candidate may be granted, with theirs."""
        bound = self.bound(params)
        names = [objective.name for objective in objectives]
        return [
            {name: record.objectives[name] for name in names} | {"number": record.number, "granted": bound}
            for record in self.records
            if self._accuracy(record) >= bound
        ]

    @staticmethod
    def _accuracy(record: TrialRecord) -> float:
        found = trained_value(record.objectives)
        assert found is not None, "candidates are granted an accuracy only where one is an objective"
        return found

    def _row(self, params: Mapping[str, Any]) -> list[int]:
        active = self._space.active(dict(params))
        return [values.index(active[name]) if name in active else -1 for name, values in self._choices.items()]


def _is_number(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values) and list(values) == sorted(values)
