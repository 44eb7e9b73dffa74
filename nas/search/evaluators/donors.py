"""Whose weights a training starts with, where `proxy.inherit` says so."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from nas.runs.record import TrialRecord
from nas.space.genotype import Genotype


def nearest(genotype: Genotype, trained: Iterable[TrialRecord]) -> TrialRecord | None:
    """The one whose network is most like this one; of several alike the first. None where nothing is alike."""
    found = [(likeness(genotype, Genotype.from_dict(record.genotype)), record) for record in trained]
    best = max(found, key=lambda pair: (pair[0], -pair[1].number), default=None)
    return best[1] if best is not None and best[0] > 0 else None


def likeness(one: Genotype, other: Genotype) -> float:
    """Mean over the blocks of the deeper one, stage by stage: 0 where the other has none or one of another kind, a half
    for another operator, 1 for the same; times the quotient of their widths."""
    pairs = [pair for stages in zip_longest(one.stages, other.stages, fillvalue=()) for pair in zip_longest(*stages)]
    return sum(_alike(*pair) for pair in pairs) / max(len(pairs), 1)


def _alike(one, other) -> float:
    if one is None or other is None or one.kind != other.kind:
        return 0.0
    same = one.operator.op == other.operator.op
    return (0.5 + 0.5 * same) * min(one.width, other.width) / max(one.width, other.width)
