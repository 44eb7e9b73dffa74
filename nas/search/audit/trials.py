"""The complete trials of a run, and their networks as positions in the choices of its space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.runs.reader import GARBLED, RunReader
from nas.runs.record import TrialRecord
from nas.space.search_space import SearchSpace, Value

Params = dict[str, Value]

MOST_TRIALS = 400


def complete_trials(run: RunReader, fewest: int) -> tuple[SearchSpace, list[TrialRecord]] | None:
    """The space of a run, and complete trials of it by number, at most MOST_TRIALS at random; None for fewer than
    `fewest`, or without the file of the experiment."""
    if run.config is None:
        return None
    space = SearchSpace(run.config.space, run.config.training_choices)
    complete = np.flatnonzero(run.rows.in_state("complete"))
    found = records_of(run, space, drawn(run.rows.column("number")[complete], MOST_TRIALS))
    return (space, found) if len(found) >= fewest else None


def drawn(numbers: NDArray[np.int64], most: int) -> list[int]:
    """At most so many of the numbers, at random, in their order."""
    if len(numbers) > most:
        numbers = np.random.default_rng(0).choice(numbers, most, replace=False)
    return np.sort(numbers).tolist()


def records_of(run: RunReader, space: SearchSpace, numbers: Iterable[int]) -> list[TrialRecord]:
    """The records of trials whose parameters are of the space."""
    choices, found = space.choices(), []
    for number in numbers:
        try:
            record = run.record(number)
        except GARBLED:
            continue  # gone, or being replaced
        if all(record.params.get(name) in values for name, values in choices.items()):
            found.append(record)
    return found


class Positions:
    """What the surrogate's model is told of a space: how many values each choice has, which of them are numbers."""

    def __init__(self, space: SearchSpace):
        self.space, self.choices = space, space.choices()
        self.names = list(self.choices)
        self.sizes = [len(values) for values in self.choices.values()]
        self.numeric = [
            all(isinstance(value, int | float) for value in values) and values == sorted(values)
            for values in self.choices.values()
        ]

    def rows(self, params: Sequence[Params]) -> NDArray[np.int64]:
        """The networks of choices as positions [N, D] in them, -1 for what is not in effect."""
        active = [self.space.active(one) for one in params]
        found = [[self.choices[name].index(one[name]) if name in one else -1 for name in self.names] for one in active]
        return np.array(found, np.int64).reshape(len(found), len(self.names))
