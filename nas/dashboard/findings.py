"""What the page asks for once it has drawn: noise of accuracies, trust in the proxy, and what decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from nas.dashboard.columns import packed
from nas.runs.findings.effects import effects
from nas.runs.findings.trust import trust
from nas.runs.noise.of_run import noise_of
from nas.runs.reader import RunReader

FEWEST_TO_EXPLAIN = 10
LOOK_SECONDS, MOST_SECONDS, NICENESS = 0.3, 300.0, 10
NOTHING: dict[str, Any] = {"operators": None, "choices": None, "predictions": None}


def findings(run: RunReader) -> bytes:
    """`effects` of operators, `trust` in the proxy and what holds for all accuracies as the head, and of each complete
    trial the mean of its trainings, its standard error, how many they are, and how probably it is on the front as
    columns; see `columns.packed`."""
    noise = noise_of(run)
    head = {
        "effects": effects(run),
        "trust": trust(run),
        "noise": noise and noise.to_dict() | {"contenders": noise.contenders()},
    }
    if noise is None:
        return packed(head, {})
    judged = noise.judged
    return packed(
        head,
        {
            "number": ("f8", np.fromiter(noise.at, float, len(noise.at))),
            "mean": ("f4", judged.mean),
            "error": ("f4", judged.error),
            "trainings": ("u1", np.minimum(judged.count, 255)),
            "on_front": ("f4", judged.on_front),
        },
    )


def explain(run: RunReader, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """What `nas report RUN --operators --json` prints, or `problem` in words where it fails.

    It runs as a process of its own: it needs Optuna and seconds of a processor, in which the server answers others.
    """
    if int(run.rows.in_state("complete").sum()) < FEWEST_TO_EXPLAIN or run.config is None:
        return NOTHING
    command = [sys.executable, "-m", "nas.cli", "report", str(run.path.resolve()), "--operators", "--json"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread
    ) as process:
        with suppress(OSError):  # gone already
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        waited = 0.0
        while True:
            try:
                out, err = process.communicate(timeout=LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                waited += LOOK_SECONDS
                if stopping() or waited > MOST_SECONDS:
                    process.kill()
    if process.returncode:
        return NOTHING | {"problem": (err.strip().splitlines() or ["it was stopped"])[-1]}
    return json.loads(out, parse_constant=lambda _: None)
