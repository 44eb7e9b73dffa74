"""What a run found, as plain data and as a table, from the files of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.base.errors import UserError
from nas.runs.findings.filters import scores_of
from nas.runs.findings.trust import trust
from nas.runs.findings.words import findings
from nas.runs.listing import is_run
from nas.runs.metrics import METRICS
from nas.runs.noise.of_run import RunNoise, noise_of
from nas.runs.pareto import front, hypervolume, hypervolume_growth, reference_point
from nas.runs.reader import RunReader
from nas.runs.report_text import operators_text
from nas.runs.retrainings import best_of_each, kendall, read_retrainings, selected_roles
from nas.runs.summary import summary
from nas.runs.trial_table import Row
from nas.space.training import training_of

if TYPE_CHECKING:
    import pandas as pd

FEWEST_FOR_A_FRONT = 3


def report(run_dir: str | Path) -> dict[str, Any]:
    """What a run found, as plain data for JSON.

    Objectives are in the units of the records: top1 as a fraction, num_params and num_macs as counts. `front` is sorted
    from cheap to dear. Also for running, empty and failed runs. Raises UserError if `run_dir` is no run.
    """
    path = Path(run_dir)
    if not is_run(path):
        raise UserError(f"{path}: this is no run folder; it has no resolved.yaml and no trials/")
    run = RunReader(path).refresh()
    rows, noise = run.ordered(), noise_of(run)
    members = front(rows, run.objectives)
    entries = [_front_entry(run, row) | _noise_of(noise, row, members) for row in members]
    return summary(run) | {
        "front": entries,
        "findings": findings(run, members, entries),
        "noise": noise and noise.to_dict(),
        "contenders": [_contender(noise, run.rows[number]) for number in noise.contenders()] if noise else [],
        "hypervolume": volume_curve(run),
        "scores": scores_of(run),
        "proxy_trust": trust(run),
        **_retrained(run, rows),
    }


def trial_frame(run: RunReader) -> pd.DataFrame:
    """One row per trial, oldest first, by number.

    Columns: key, state, each objective and cost that any trial has (NaN where it is unknown), operators (stage by
    stage, of a detector neck and head last), seconds, started and finished (UTC), error (None where there is none).
    """
    import pandas as pd

    rows, order = run.rows, run.rows.order()
    measured = {name: rows.measured(name)[order] for name in METRICS}
    trials = [rows.row(at) for at in order]
    columns = {
        "key": [row.key for row in trials],
        "state": [row.state for row in trials],
        **{name: values for name, values in measured.items() if not np.isnan(values).all()},
        "operators": [operators_text(row.operators) for row in trials],
        "seconds": rows.column("seconds")[order],
        "started": pd.to_datetime(rows.column("started")[order], unit="s", utc=True),
        "finished": pd.to_datetime(rows.column("finished")[order], unit="s", utc=True),
        "error": pd.Series([row.error for row in trials], dtype=object).to_numpy(),
    }
    return pd.DataFrame(columns, index=pd.Index(rows.column("number")[order], name="number"))


def volume_curve(run: RunReader) -> dict[str, Any] | None:
    """Hypervolume after each training, as a share of the box between the best values found and the reference point.

    The reference is `pareto.reference_point` of all complete trials, in the units of the records. `value` is the final
    hypervolume in those units. None below three complete trials and for a single objective, where it says nothing.
    """
    points = run.rows.trained_points(run.objectives)
    complete = points[~np.isnan(points).any(axis=1)]
    if len(run.objectives) < 2 or len(complete) < FEWEST_FOR_A_FRONT:
        return None
    reference = reference_point(complete)
    growth = dict(zip(*hypervolume_growth(points), strict=True))
    share, shares = 0.0, []
    for training in range(len(points)):
        share = growth.get(training, share)
        shares.append(round(share, 6))
    signs = [-1 if objective.maximize else 1 for objective in run.objectives]
    names = [objective.name for objective in run.objectives]
    return {
        "reference": dict(zip(names, (reference * signs).tolist(), strict=True)),
        "value": hypervolume(complete, reference),
        "share": shares,
    }


def _retrained(run: RunReader, rows: list[Row]) -> dict[str, Any]:
    """The retrained networks of the run, the best first, and how their order agrees with the proxy's."""
    proxies = {row.key: row.value("top1") for row in rows if row.state == "complete"}
    roles = selected_roles(run.path)
    entries = [
        {"role": roles.get(training["key"]), "proxy_top1": proxies.get(training["key"])}
        | {name: training[name] for name in ("key", "name", "top1", "best_top1", "epochs", "asked", "done")}
        for training in read_retrainings(run.path).values()
    ]
    entries.sort(key=lambda entry: (-entry["top1"], entry["key"], entry["name"]))
    pairs = [(e["proxy_top1"], e["top1"]) for e in best_of_each(entries).values() if e["proxy_top1"] is not None]
    return {"retrained": entries, "agreement": kendall(pairs)}


def _noise_of(noise: RunNoise | None, row: Row, members: list[Row]) -> dict[str, Any]:
    """What noise leaves of a member of the front, and how probably it is more accurate than the next cheaper one."""
    if noise is None:
        return {"noise": None}
    place = members.index(row)
    cheaper = {"beats_cheaper": noise.beats(row.number, members[place - 1].number) if place else None}
    return {"noise": noise.of(row.number) | cheaper}


def _contender(noise: RunNoise, row: Row) -> dict[str, Any]:
    return _entry(row) | {"noise": noise.of(row.number)}


def _entry(row: Row) -> dict[str, Any]:
    """What is said of a network wherever it is listed."""
    return {
        "number": row.number,
        "key": row.key,
        "objectives": row.objectives,
        "costs": row.costs,
        "operators": [list(stage) for stage in row.operators],
    }


def _front_entry(run: RunReader, row: Row) -> dict[str, Any]:
    record = run.record(row.number)
    return _entry(row) | {
        "training": training_of(record.params),
        "genotype": record.genotype,
    }
