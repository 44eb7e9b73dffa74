"""What `search.scheduler` names, and what it can serve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nas.config.sections import ExperimentConfig, ObjectiveConfig, SearchConfig
from nas.runs.record import TrialRecord
from nas.search.stopping import Stopping
from nas.search.stopping.freeze_thaw import FreezeThaw, thawing_epochs
from nas.search.stopping.halving import SuccessiveHalving, rung_epochs

if TYPE_CHECKING:
    from nas.search.surrogate.freeze_thaw import Schedule

HYPERBAND_BRACKETS = 3


def rungs_of(search: SearchConfig, epochs: int) -> list[int]:
    """The epochs of a training at which its trial may stop."""
    if search.scheduler == "none":
        return []
    find = thawing_epochs if search.scheduler == "freeze_thaw" else rung_epochs
    return find(epochs, search.grace_epochs, search.reduction)


def pauses(search: SearchConfig) -> bool:
    """Whether trials wait at rungs, and so save themselves there."""
    return search.scheduler == "freeze_thaw" or (search.scheduler != "none" and search.halving == "promotion")


def make_stopping(
    config: ExperimentConfig,
    records: Iterable[TrialRecord],
    thaw: Callable[[Schedule, Mapping[int, int], bool], int | None],
) -> Stopping | None:
    """What `search.scheduler` names, with the trials that have ended; None where nothing is stopped.

    `thaw` is `nas.search.study.Study.thaw`.
    """
    search, epochs = config.search, config.proxy.epochs
    stopping: Stopping
    if search.scheduler == "none":
        return None
    if search.scheduler == "freeze_thaw":
        from nas.search.surrogate.freeze_thaw import Schedule  # trials import this module, and need no surrogate

        rungs = rungs_of(search, epochs)
        stopping = FreezeThaw(rungs, partial(thaw, Schedule(epochs, rungs)))
    else:
        brackets = HYPERBAND_BRACKETS if search.scheduler == "hyperband" else 1
        stopping = SuccessiveHalving(
            epochs, search.grace_epochs, search.reduction, search.rank, search.halving, brackets
        )
    for record in records:
        stopping.enter(str(record.number), ranked_curve(record, config.objectives))
    return stopping


def check_scheduler(search: SearchConfig, num_objectives: int) -> None:
    """Raise ValueError where a scheduler cannot serve this search."""
    name = search.scheduler
    if name in ("asha", "hyperband") and num_objectives > 1:
        raise ValueError(
            f"search.scheduler: {name} ranks one objective, the file has {num_objectives}; allowed here are none, "
            "mo_asha and freeze_thaw"
        )
    if name == "freeze_thaw" and search.sampler != "surrogate":
        raise ValueError(
            f"search.scheduler: freeze_thaw decides by the models of the surrogate; with search.sampler: "
            f"{search.sampler} allowed are none, mo_asha and, for one objective, asha and hyperband"
        )
    if name != "none" and search.sampler == "gp":
        raise ValueError(
            f"search.scheduler: gp learns only from trainings that came to their ends, and found no more in as many "
            f"epochs where {name} stops the others; take scheduler: none, or sampler: surrogate"
        )


def ranked_values(row: Mapping[str, Any], objectives: Sequence[ObjectiveConfig]) -> list[float]:
    """The objectives as a row has them, lower is better."""
    return [-row[o.name] if o.maximize else row[o.name] for o in objectives]


def ranked_curve(record: TrialRecord, objectives: Sequence[ObjectiveConfig]) -> dict[int, list[float]]:
    """The same after every epoch."""
    return {int(row["epoch"]): ranked_values(record.costs | row, objectives) for row in record.curve}
