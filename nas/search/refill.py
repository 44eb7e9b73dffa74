"""Inserts many finished trials at once into an Optuna database; Optuna takes 50 queries and a commit for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Engine, MetaData, Table, func, select

AT_ONCE = 1000
"""Trials per transaction."""


def refill(engine: Engine, study_id: int, first: int, trials: Sequence[FrozenTrial]) -> None:
    """Append trials to a study that has `first` now, or more where a call before this one was cut off.

    Whole parts of them are in the database or not at all, so that it can be called again. Raises SQLAlchemyError.
    """
    metadata = MetaData()
    names = ["trials", "trial_params", "trial_values", "trial_user_attributes", "trial_intermediate_values"]
    metadata.reflect(engine, only=names)
    tables = [metadata.tables[name] for name in names]
    for start in range(first, first + len(trials), AT_ONCE):
        with engine.begin() as connection:
            count = select(func.count()).select_from(tables[0]).where(tables[0].c.study_id == study_id)
            if connection.execute(count).scalar_one() == start:
                _append(connection, tables, study_id, start, trials[start - first : start - first + AT_ONCE])


def reopen(engine: Engine, study_id: int, numbers: Sequence[int]) -> None:
    """Have finished trials of a study run again, under their numbers; Optuna itself lets none begin twice.

    To be called before the study's trials are looked at, as Optuna keeps finished ones in mind.
    """
    metadata = MetaData()
    metadata.reflect(engine, only=["trials", "trial_user_attributes"])
    trials, attributes = metadata.tables["trials"], metadata.tables["trial_user_attributes"]
    ours = (trials.c.study_id == study_id) & trials.c.number.in_(numbers)
    with engine.begin() as connection:
        ids = select(trials.c.trial_id).where(ours).scalar_subquery()
        told = attributes.c.trial_id.in_(ids) & attributes.c.key.in_(["state", "error"])
        connection.execute(attributes.delete().where(told))
        connection.execute(trials.update().where(ours).values(state="RUNNING", datetime_complete=None))


def _append(
    connection: Connection, tables: list[Table], study_id: int, start: int, part: Sequence[FrozenTrial]
) -> None:
    trials, params, values, attributes, steps = tables
    rows = [
        {
            "number": number,
            "study_id": study_id,
            "state": trial.state.name,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
        }
        for number, trial in enumerate(part, start)
    ]
    connection.execute(trials.insert(), rows)
    where = (trials.c.study_id == study_id) & (trials.c.number >= start)
    ids = {number: key for number, key in connection.execute(select(trials.c.number, trials.c.trial_id).where(where))}
    found: list[tuple[Table, list[dict[str, Any]]]] = [(params, []), (values, []), (attributes, []), (steps, [])]
    described: dict[str, str] = {}
    for number, trial in enumerate(part, start):
        of_trial = {"trial_id": ids[number]}
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            described.setdefault(name, distribution_to_json(distribution))
            inside = {"param_value": distribution.to_internal_repr(value), "distribution_json": described[name]}
            found[0][1].append(of_trial | {"param_name": name} | inside)
        for objective, value in enumerate(trial.values or ()):
            found[1][1].append(of_trial | {"objective": objective, "value": value, "value_type": "FINITE"})
        for key, value in trial.user_attrs.items():
            found[2][1].append(of_trial | {"key": key, "value_json": json.dumps(value)})
        for step, value in trial.intermediate_values.items():
            row = {"step": step, "intermediate_value": value, "intermediate_value_type": "FINITE"}
            found[3][1].append(of_trial | row)
    for table, lines in found:
        if lines:
            connection.execute(table.insert(), lines)


def _utc(moment: datetime | None) -> datetime | None:
    return moment and moment.astimezone(timezone.utc).replace(tzinfo=None)
