"""Filters: what the filters of a search compare a candidate with, as long as this run's trainings bear them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nas.config.evaluators import EvaluatorConfig, trained_value
from nas.config.sections import ExperimentConfig
from nas.runs.findings.filters import Scored, Verdict, looked_at, verdict
from nas.runs.record import TrialRecord

LATEST = 300
"""Networks that are compared with: the latest that were scored."""
LONGEST = 5.0
"""After this many times 1 / keep rejections one after the other, a candidate is trained whatever its score."""


class Filters:
    """What earlier trials of a search say to its filters; it follows from their records alone."""

    def __init__(self, config: ExperimentConfig, records: Iterable[TrialRecord], say: Callable[[str], Any]):
        names = [objective.name for objective in config.objectives if not objective.maximize]
        self._filters = [_Filter(stage, names) for stage in config.evaluators[:-1]]
        for record in records:
            for each in self._filters:
                each.add(record)
        self._say = say

    def add(self, record: TrialRecord) -> None:
        """A trial has finished; says so once where that changes what is thought of a filter."""
        for each in self._filters:
            before = each.verdict
            each.add(record)
            if each.verdict is not None and each.verdict != before:
                self._say(in_words(each.stage, each.verdict))

    def compared(self) -> dict[str, list[dict[str, float]]]:
        """Name of a filter -> what a candidate is compared with, see `TrialTask`; of those that reject."""
        return {each.stage.name: each.scored[-LATEST:] for each in self._filters if each.rejects}


def in_words(stage: EvaluatorConfig, found: Verdict) -> str:
    """What becomes of a filter after so many trainings."""
    head = f"filter {stage.label}, after {found.count} trainings: {found.reason}"
    if found.rejects:
        return f"{head}; the best {stage.share_kept:.0%} of what costs about as much are trained from now on"
    return f"{head}; it rejects nothing, and is looked at again after {2 * found.count}"


class _Filter:
    def __init__(self, stage: EvaluatorConfig, names: list[str]):
        self.stage, self.names = stage, names
        self.scored: list[dict[str, float]] = []
        """Scores that are numbers, with the costs that objectives name."""
        self.verdict: Verdict | None = None
        self._judged: list[Scored] = []
        self._known = self._in_a_row = 0

    @property
    def rejects(self) -> bool:
        return self.verdict is not None and self.verdict.rejects and self._in_a_row < LONGEST / self.stage.share_kept

    def add(self, record: TrialRecord) -> None:
        said = next((each for each in record.evaluations if each["evaluator"] == self.stage.name), None)
        if said is None:
            return
        score = said["figures"].get(self.stage.figure)
        top1 = trained_value(record.evaluations[-1]["figures"]) if record.state == "complete" else None
        operators = tuple(str(block["operator"]) for blocks in record.genotype["stages"] for block in blocks)
        self._judged.append(Scored(score, operators, top1))
        if score is not None:
            costs = {name: record.costs[name] for name in self.names if name in record.costs}
            self.scored.append({"score": score} | costs)
        self._in_a_row = self._in_a_row + 1 if "rejected" in said else 0
        if top1 is not None:
            self._known += 1
            if looked_at(self._known, self.stage.num_trained_first) == self._known:
                self.verdict = verdict(self._judged, self.stage.num_trained_first)
