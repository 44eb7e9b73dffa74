"""The trials of a run as a pandas DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nas.runs.metrics import METRICS
from nas.runs.reader import RunReader
from nas.runs.report import operators_text

if TYPE_CHECKING:
    import pandas as pd


def trial_frame(run: RunReader) -> pd.DataFrame:
    """One row per trial, oldest first, by number.

    Columns: key, state, each objective and cost that any trial has (NaN where it is unknown), operators (stage by
    stage), seconds, started and finished (UTC), error (None where there is none).
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
