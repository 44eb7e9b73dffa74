"""What noise says of the trials of a run, from its records and those of its replicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.runs.noise.model import DRAWS, Judged, judge
from nas.runs.noise.replicates import LEAST_PROBABLE, accuracy, read_replicates
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord


@dataclass(frozen=True)
class RunNoise:
    """The complete trials of a run as noise lets them be seen."""

    judged: Judged
    at: Mapping[int, int]
    """Number of a complete trial -> its place in `judged`."""
    replicates: Mapping[int, Sequence[TrialRecord]]

    def of(self, number: int) -> dict[str, Any]:
        """Accuracy over all trainings of a trial's network with its interval of 95 %, how many they are, and how
        probably the network is on the front."""
        at, judged = self.at[number], self.judged
        low, high = judged.interval(at)
        return {
            "mean": float(judged.mean[at]),
            "low": low,
            "high": high,
            "num_trainings": int(judged.count[at]),
            "on_front": float(judged.on_front[at]),
        }

    def beats(self, number: int, other: int) -> float:
        """Probability that the network of one trial is more accurate than that of another."""
        return self.judged.beats(self.at[number], self.at[other])

    def contenders(self) -> list[int]:
        """Numbers of the trials that are not on the front of first trainings and may well be on the true one, the most
        probable first."""
        probable, first = self.judged.on_front, self.judged.first_front
        found = [number for number, at in self.at.items() if probable[at] >= LEAST_PROBABLE and not first[at]]
        return sorted(found, key=lambda number: (-probable[self.at[number]], number))

    def to_dict(self) -> dict[str, Any]:
        """What holds for all trials: of how many images and which scatter intervals are made, what training again
        changed. `change` is the mean accuracy of the replicates of a trial less that of its first training, averaged
        over trials: what was chosen for being good was lucky as well."""
        noise, accuracies = self.judged.noise, {number: _accuracies(found) for number, found in self.replicates.items()}
        first = self.judged.first
        changes = [np.mean(again) - first[self.at[n]] for n, again in accuracies.items() if again and n in self.at]
        return {
            "num_images": noise.num_images or None,
            "seed_sd": noise.seed_sd,
            "measured_sd": noise.measured_sd,
            "degrees": noise.degrees,
            "num_draws": DRAWS,
            "num_replicates": sum(map(len, self.replicates.values())),
            "num_failed": sum(record.state != "complete" for found in self.replicates.values() for record in found),
            "num_repeated": len(changes),
            "change": float(np.mean(changes)) if changes else None,
        }


def noise_of(run: RunReader) -> RunNoise | None:
    """None where the objectives have no accuracy, no trial is complete, or nothing tells how accuracies scatter."""
    complete = np.flatnonzero(run.rows.in_state("complete"))
    replicates = read_replicates(run.path)
    keys = [run.rows.keys[at] for at in complete.tolist()]
    further: dict[str, list[float]] = {}
    for records in replicates.values():
        for record in records:
            further.setdefault(record.key, []).extend(_accuracies([record]))
    of_replicates = (record.num_validation for records in replicates.values() for record in records)
    num_images = max(run.num_validation, *of_replicates, 0)
    judged = judge(keys, run.rows.points(run.objectives)[complete], run.objectives, num_images, further)
    if judged is None:
        return None
    numbers = run.rows.column("number")[complete].tolist()
    return RunNoise(judged, {number: at for at, number in enumerate(numbers)}, replicates)


def _accuracies(records: Sequence[TrialRecord]) -> list[float]:
    return [value for record in records if (value := accuracy(record)) is not None]
