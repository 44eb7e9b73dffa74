"""train_longer: networks of a run trained longer than it did, so that its order of them can be checked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.base.errors import UserError
from nas.base.ray_session import refuse_running_ray
from nas.base.signals import stoppable
from nas.config.evaluators import TRAINED, trained_value
from nas.config.overrides import Overrides, as_texts
from nas.config.sections import RUN_NAME, ExperimentConfig
from nas.runs.findings.trust import TOP
from nas.runs.folder import LONGER, plan_run, resumed
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord, scan_records
from nas.runs.trial_table import Row
from nas.search.run import check_machine, run_search
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

TIMES = 3
"""As many epochs as the search's, where nothing else is asked for."""
ALONE = {
    "constraints": {},
    "search.sampler": "random",
    "search.scheduler": "none",
    "search.reference": {},
    "search.measured_first": 0,
    "search.replicates": 0,
    "search.warm_start": [],
    "search.storage": None,
    "search.log": [],
}
"""Accuracy is all that is asked of the longer trainings; who is trained is settled."""


def train_longer(
    run_dir: Path,
    count: int = 20,
    overrides: Overrides = (),
    ray_address: str | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """Train `count` networks of a run with other settings of `proxy`, without any three times as many epochs; returns
    the folder with their records.

    They are spread over cost and operators, and the most accurate of the run are among them. The trainings are those of
    a search: on all its places, resumable by the same call, which trains nothing twice; a greater `count` adds some.
    `overrides` are entries such as `proxy.epochs=36`, `proxy.resolution=64` or `resources.max_concurrent=4`. `say` is
    told what it costs. Raises UserError for other entries, and for a run without accuracies or with fewer networks.
    """
    run = RunReader(run_dir).refresh()
    texts = as_texts(overrides)
    if found := [text for text in texts if not text.startswith(("proxy.", "resources"))]:
        raise UserError(f"--set {found[0]}: with --proxy only entries of proxy and resources can be set")
    config, _ = resumed(run_dir)
    if not any(text.startswith("proxy.") for text in texts):
        texts.append(f"proxy.epochs={TIMES * config.proxy.epochs}")
    asked = ALONE | {"objectives": [{"name": config.trained}]}
    alone = [f"{name}={json.dumps(value)}" for name, value in asked.items()]
    longer, space = resumed(run_dir, [*alone, f"search.num_trials={count}", *texts])
    records = chosen(run, count)
    name = _name(config, longer)
    folder = run_dir / LONGER / name
    if len(scan_records(folder)[0]) < count:
        say(_cost_in_words(config, longer, records))
    refuse_running_ray()
    check_machine(longer, space, ray_address is not None)
    resume = (folder / "resolved.yaml").exists()
    plan_run(name, longer, resume, run_dir / LONGER)
    starts = [_start(record, space) for record in records]
    with stoppable():
        run_search(longer, space, folder, run_dir / "resolved.yaml", resume, ray_address, starts=starts)
    return folder


def chosen(run: RunReader, count: int) -> list[TrialRecord]:
    """Of the complete trials the TOP most accurate, and of the others one in each of equal parts by cost, in each part
    the one whose operators have been chosen least. Raises UserError where there are fewer networks than `count`."""
    rows = list({row.key: row for row in reversed(run.ordered()) if row.state == "complete"}.values())
    accuracies = {row.number: value for row in rows if (value := trained_value(row.objectives)) is not None}
    rows = [row for row in rows if row.number in accuracies]
    if len(rows) < count:
        raise UserError(f"{run.path}: {len(rows)} networks were trained to the end; --networks allows as many at most")
    rows.sort(key=lambda row: (-accuracies[row.number], row.number))
    taken = rows[: min(TOP, count)]
    others = sorted(rows[len(taken) :], key=lambda row: (_cost(run, row), row.number))
    used = Counter(label for row in taken for label in _labels(row))

    def often(row: Row) -> float:
        return sum(used[label] for label in _labels(row)) / len(_labels(row))

    parts = np.array_split(np.arange(len(others)), count - len(taken)) if len(taken) < count else []
    for part in parts:
        row = min((others[at] for at in part), key=often)
        taken.append(row)
        used.update(_labels(row))
    return [run.record(row.number) for row in taken]


def _labels(row: Row) -> list[str]:
    return [label for stage in row.operators for label in stage]


def _cost(run: RunReader, row: Row) -> float:
    """The first cost of the objectives, or else the number of parameters."""
    names = [objective.name for objective in run.objectives if objective.name not in TRAINED]
    return next((value for name in [*names, "num_params"] if (value := row.value(name)) is not None), 0.0)


def _name(config: ExperimentConfig, longer: ExperimentConfig) -> str:
    """What tells the longer training from the search's, as the name of a folder."""
    before, after = (one.proxy.model_dump(mode="json") for one in (config, longer))
    changed = {name: value for name, value in after.items() if value != before[name]}
    if not changed:
        raise UserError("--proxy: nothing differs from the search's own training; --set proxy.epochs=N asks for more")
    text = "_".join(f"{name}-{value}" for name, value in changed.items())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:64]
    if not RUN_NAME.match(name):
        raise UserError(f"--set: {text} makes no name of a folder")
    return name


def _start(record: TrialRecord, space: SearchSpace) -> tuple[str, dict[str, Any], str | None]:
    """A trial as a search is told to begin with it."""
    name, choices = f"longer {record.key}", space.choices()
    if record.params.keys() == choices.keys():
        return name, record.params, None
    return name, {}, Genotype.from_dict(record.genotype).to_json()


def _cost_in_words(config: ExperimentConfig, longer: ExperimentConfig, records: Sequence[TrialRecord]) -> str:
    before, after = config.proxy, longer.proxy
    times = after.epochs / before.epochs * (after.resolution / before.resolution) ** 2
    seconds = times * sum(record.seconds for record in records)
    return (
        f"{len(records)} networks are trained for {after.epochs} epochs at {after.resolution} pixels: as much as "
        f"{times * len(records):.0f} trainings of the search, {seconds / 3600:.2g} hours on one place like its own"
    )
