"""What the form of a hand-made network offers, and the process that says what the network would reach and cost."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nas.runs.reader import RunReader
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace
from nas.space.specs import has_pointwise

MOST_BYTES = 50_000
LOOK_SECONDS, MOST_SECONDS, NICENESS = 0.3, 300.0, 5


def form(run: RunReader, number: int) -> dict[str, Any]:
    """The choices of a run's space, stage by stage, and as `params` those of a trial, the network to begin with.

    A stage has the names and values of `block`, `depth`, `width` and `pointwise` (None without), and by kind of block
    the names of its operators, one or one per block. `problem` says why nothing can be made of the trial. Raises
    KeyError for a number that is not in the run.
    """
    record = run.record(number)
    if run.config is None:
        return {"problem": run.problem or "the run has no experiment.yaml"}
    space = SearchSpace(run.config.space, run.config.proxy.choices())
    choices, params = space.choices(), dict(record.params)
    try:
        if any(params.get(name) not in values for name, values in choices.items()):
            params = space.encode(Genotype.from_dict(record.genotype))
    except ValueError as problem:
        return {"problem": f"trial {number} is not of the space that the run searched: {problem}"}
    return {
        "params": params,
        "stages": [_stage(space, params, i) for i in range(len(space.config.stages))],
        "others": [_entry(choices, name) for name in choices if not name.startswith("stages.")],
        "labels": [
            label for label in run.config.space.operators if any(label in values for values in choices.values())
        ],
    }


def _stage(space: SearchSpace, params: dict[str, Any], i: int) -> dict[str, Any]:
    choices, prefix = space.choices(), f"stages.{i}."
    deepest = params | {f"{prefix}depth": max(map(int, choices[f"{prefix}depth"]))}
    operators = {}
    for kind in choices[f"{prefix}block"]:
        names = space.active(deepest | {f"{prefix}block": kind})
        operators[str(kind)] = [name for name in names if name.startswith(prefix) and ".operator" in name]
    has_slots = f"{prefix}pointwise" in choices
    pointwise = _entry(choices, f"{prefix}pointwise") if has_slots else None
    return {
        **{name: _entry(choices, f"{prefix}{name}") for name in ("block", "depth", "width")},
        "pointwise": pointwise and pointwise | {"of": [kind for kind in operators if has_pointwise(kind)]},
        "operators": operators,
    }


def _entry(choices: dict[str, list[Any]], name: str) -> dict[str, Any]:
    return {"name": name, "values": choices[name]}


class Asked:
    """A process beside the server that answers one question after the other; it is started when it is needed."""

    def __init__(self, run_dir: Path):
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def answer(self, params: dict[str, Any], stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """What `WhatIf.answer` says, or `failed` in words where the process cannot."""
        with self._lock:
            process = self._running()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps(params).encode() + b"\n")
                process.stdin.flush()
            except OSError:
                return self._failed()
            waited = 0.0
            while not select.select([process.stdout], [], [], LOOK_SECONDS)[0]:
                waited += LOOK_SECONDS
                if stopping() or waited > MOST_SECONDS:
                    process.kill()
            line = process.stdout.readline()
            return json.loads(line) if line.endswith(b"\n") else self._failed()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "nas.search.audit.what_if", str(self._run_dir.resolve())]
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, env=one_thread)
            with suppress(OSError):  # gone already
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        return self._process

    def _failed(self) -> dict[str, Any]:
        assert self._process and self._said
        self._process.kill()
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return {"failed": lines[-1] if lines else "it was stopped"}
