"""attribution: what an operator does in a stage, by networks that differ in nothing else, seen and predicted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord
from nas.runs.trial_table import places
from nas.search.audit.trials import Params, Positions, complete_trials
from nas.search.surrogate.model import Ensemble
from nas.space.search_space import DENSE_SLOTS, SearchSpace

Array = NDArray[np.float64]

FEWEST, MOST_PAIRED, RESAMPLED = 10, 100, 10
NORMAL_95 = 1.96


def attribution(run: RunReader) -> dict[str, Any] | None:
    """Per stage and label: the change of each objective when one operator of a network in that stage goes from the
    baseline to the label and all else stays. Neck and head of a detector count as stages; `place` is what each is
    called.

    `changes` are predicted by the surrogate's model for networks of the run, each with both operators in the same slot,
    and averaged; `margin` is half the 95 % interval of that average, from the model's covariance and from models of
    resampled trials. The model takes small effects for likely, so that few trials show less than there is: intervals
    held four in five of known effects after 40 trials, 98 % after 150. `seen` counts the pairs of trained networks that
    differ in just that, with the mean of what was measured. Units are those of the records; the baseline is the label
    that most networks have, plain convolutions first. At most `trials.MOST_TRIALS` trials are taken, at random. None
    for fewer than FEWEST, or without the file of the experiment.
    """
    told = complete_trials(run, FEWEST)
    if told is None:
        return None
    space, records = told
    slots = _Slots(space, [record.params for record in records])
    values = {name: found for name, found in _values(run, records).items() if np.isfinite(found).all()}
    signs = {objective.name: -1 if objective.maximize else 1 for objective in run.objectives}
    models = {name: _Model(slots, signs[name] * found) for name, found in values.items()}
    baseline = slots.baseline([label for label, kind in run.kinds.items() if kind == "conv"])
    seen, rows = slots.seen(values, baseline), []
    for (stage, place), label in product(enumerate(slots.places), space.config.operators):
        pairs = [] if label == baseline else slots.paired(stage, baseline, label)
        if pairs:
            changes = {name: model.change(pairs, signs[name]) for name, model in models.items()}
            rows.append(
                {"stage": stage, "place": place, "label": label, "changes": changes, "seen": seen[stage, label]}
            )
    return {"baseline": baseline, "num_trials": len(records), "rows": rows} if rows and models else None


def _values(run: RunReader, records: Sequence[TrialRecord]) -> dict[str, Array]:
    names = [objective.name for objective in run.objectives]
    return {name: np.array([record.objectives.get(name, np.nan) for record in records]) for name in names}


class _Model:
    """The surrogate's model of a value, and those of trials drawn from them with replacement."""

    def __init__(self, slots: _Slots, values: Array):
        draw, count = np.random.default_rng(0), len(values)
        drawn = [np.arange(count), *(draw.integers(0, count, count) for _ in range(RESAMPLED))]
        self._models = [Ensemble(slots.sizes, slots.numeric, slots.rows[at], values[at]) for at in drawn]

    def change(self, pairs: Sequence[tuple[list[int], list[int]]], sign: int) -> dict[str, float]:
        """The mean difference between the two networks of the pairs."""
        rows = np.array([before for before, _ in pairs] + [after for _, after in pairs])
        weights = np.repeat([[-1.0, 1.0]], len(pairs), axis=1) / len(pairs)
        found = [model.contrasts(rows, weights) for model in self._models]
        changes = np.array([middle[0] for middle, _ in found])
        spread = np.hypot(found[0][1][0], changes[1:].std(ddof=1))
        return {"change": sign * float(changes[0]), "margin": NORMAL_95 * float(spread)}


class _Slots:
    """The networks of trials as positions in the choices, -1 for what is not in effect, and their operator slots."""

    def __init__(self, space: SearchSpace, params: Sequence[Params]):
        positions = Positions(space)
        self.choices, self.names = positions.choices, positions.names
        self.sizes, self.numeric = positions.sizes, positions.numeric
        self.rows = positions.rows(params)
        num_stages = len(space.config.stages)
        self.places = places(num_stages, num_stages + sum(name in self.choices for name in DENSE_SLOTS))

    def _stage(self, name: str) -> int | None:
        """The stage whose operator a choice is, neck and head counted on; None of any other choice."""
        if name in DENSE_SLOTS:
            return len(self.places) - len(DENSE_SLOTS) + DENSE_SLOTS.index(name)
        return int(name.split(".")[1]) if ".operator" in name else None

    def _columns(self, stage: int) -> list[int]:
        return [at for at, name in enumerate(self.names) if self._stage(name) == stage]

    def baseline(self, plain: Sequence[str]) -> str:
        """The label that most slots have, one of `plain` where these are offered."""
        used: Counter[str] = Counter()
        for column, name in enumerate(self.names):
            if self._stage(name) is not None:
                counts = np.bincount(self.rows[:, column] + 1, minlength=self.sizes[column] + 1)[1:]
                used.update(dict(zip(map(str, self.choices[name]), counts.tolist(), strict=True)))
        offered = [label for label in plain if label in used] or list(used)
        return max(offered, key=lambda label: used[label])

    def paired(self, stage: int, baseline: str, label: str) -> list[tuple[list[int], list[int]]]:
        """Networks with the baseline and with the label in one of their slots in the stage that offer both, at most
        MOST_PAIRED; the slot is drawn."""
        draw, found = np.random.default_rng(stage), []
        columns = [
            column
            for column in self._columns(stage)
            if {baseline, label} <= {*map(str, self.choices[self.names[column]])}
        ]
        for row in self.rows.tolist():
            there = [column for column in columns if row[column] >= 0]
            if not there or len(found) == MOST_PAIRED:
                continue
            column = there[int(draw.integers(len(there)))]
            positions = [self.choices[self.names[column]].index(one) for one in (baseline, label)]
            before, after = ([*row[:column], position, *row[column + 1 :]] for position in positions)
            found.append((before, after))
        return found

    def seen(self, values: dict[str, Array], baseline: str) -> dict[tuple[int, str], dict[str, Any]]:
        """(stage, label) -> how many pairs of the networks differ in one slot alone, which has the baseline in one and
        the label in the other, and the mean change of each value."""
        differences: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
        for column, name in enumerate(self.names):
            if (stage := self._stage(name)) is None:
                continue
            alike: dict[bytes, list[int]] = defaultdict(list)
            for at in np.flatnonzero(self.rows[:, column] >= 0).tolist():
                alike[np.delete(self.rows[at], column).tobytes()].append(at)
            for group in (group for group in alike.values() if len(group) > 1):
                labels = {at: str(self.choices[name][self.rows[at, column]]) for at in group}
                for base in (at for at in group if labels[at] == baseline):
                    for other in (at for at in group if labels[at] != baseline):
                        differences[stage, labels[other]].append((base, other))
        found: dict[tuple[int, str], dict[str, Any]] = defaultdict(lambda: {"pairs": 0, "changes": {}})
        for place, pairs in differences.items():
            changes = {
                name: float(np.mean([value[other] - value[base] for base, other in pairs]))
                for name, value in values.items()
            }
            found[place] = {"pairs": len(pairs), "changes": changes}
        return found
