"""The functions of the public API that begin something or look for it; `nas.run` has what there is to do with a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import UserError
from nas.base.ray_session import refuse_running_ray
from nas.config.overrides import Overrides, as_texts
from nas.config.reading import load_experiment
from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.run import Run
from nas.runs import listing
from nas.runs.folder import LATENCY_TABLES, RESULTS, RunError, find_run, plan_resume, plan_run, resumed
from nas.space.search_space import SearchSpace, notes

if TYPE_CHECKING:
    from torch import nn

__version__ = metadata.version("opnas")
COSTS = ("num_params", "num_macs", "latency_ms", "peak_memory_mb")


@dataclass(frozen=True)
class Plan:
    """What a search would do; printed, it is a short text."""

    config: ExperimentConfig
    space: SearchSpace
    run_dir: Path
    source: Path
    """The file that `config` was read from."""
    resume: bool

    @property
    def notes(self) -> list[str]:
        """What the space allows, and its author may not have meant."""
        return list(notes(self.config.space))

    def __str__(self) -> str:
        config, search, proxy = self.config, self.config.search, self.config.proxy
        lines = [
            f"run         {self.run_dir}",
            f"space       {len(self.space.choices())} parameters, {self.space.num_points():,} points, "
            f"operators {', '.join(config.space.operators)}",
            f"objectives  {', '.join(objective.name for objective in config.objectives)}",
            f"constraints {', '.join(config.constraints) or 'none'}",
            f"evaluator   {_evaluators_in_words(config)}",
            f"search      {search.num_trials} {'trainings' if config.trains else 'networks'} by {search.sampler}, "
            f"seed {search.seed}",
            f"proxy       {proxy.dataset}, {proxy.epochs} epochs at {proxy.resolution} pixels",
        ]
        return "\n".join(lines)

    def check(self, ray_address: str | None = None, ship: bool = False) -> None:
        """Raise UserError with all that would have a search on this machine, or on the cluster at `ray_address`,
        refused; the hosts of a cluster are asked as the search would ask them, with `ship` for what it would send."""
        from nas.search.run import check_start

        refuse_running_ray()
        check_start(self.config, self.space, self.run_dir, ray_address, ship)

    def forecast(self) -> dict[str, Any]:
        """What the search would come to on this machine, from random networks and timed steps, see
        `nas.search.forecast`."""
        from nas.search.forecast import forecast

        return forecast(self.config, self.space)

    def forecast_text(self) -> str:
        """The same as lines of text."""
        from nas.search.forecast import to_text

        return to_text(self.forecast(), self.config)


def plan(
    file: str | Path,
    *,
    name: str | None = None,
    overrides: Overrides = (),
    resume: bool = False,
    results: str | Path | None = None,
) -> Plan:
    """Read and check an experiment as `search` does, and say what it would do; nothing is written or started.

    Raises UserError: ConfigError for what is wrong in the file, RunError for a run that is there already, or is not.
    """
    file, given = Path(file), as_texts(overrides)
    shipped = _shipped(file)
    if file.is_dir() and not resume:
        raise RunError(f"{file} is a folder; nas search --resume {file} goes on with the run in it")
    if resume and (file.is_dir() or (not shipped.exists() and file.suffix not in (".yaml", ".yml"))):
        if name or results:
            raise RunError("--resume RUN goes with neither --name nor --results: the folder says which run")
        folder = find_run(str(file))
        config, space = resumed(folder, given)
        return Plan(config, space, plan_resume(folder, config), folder / "resolved.yaml", resume)
    config, space = load_experiment(shipped, given)
    run_dir = plan_run(name or file.stem, config, resume, RESULTS if results is None else Path(results))
    return Plan(config, space, run_dir, shipped, resume)


def search(
    file: str | Path,
    *,
    name: str | None = None,
    overrides: Overrides = (),
    resume: bool = False,
    results: str | Path | None = None,
    ray_address: str | None = None,
    ship: bool = False,
    retry_failed: bool = False,
) -> Run:
    """Search the space of an experiment file until it has its number of trainings; returns the run.

    `name` is that of the run's folder in `results` ("results"), without it that of the file. With `resume` the run of
    that name goes on; `file` may then be the run's folder or name. Progress is written to stderr. In a notebook the
    call is the same, and interrupting the cell interrupts the search, which loses nothing. `ray_address` is that of a
    cluster to run on, to whose hosts `ship` sends this package; `retry_failed` goes with `resume` and has the trials
    that failed run once more.

    Raises UserError for wrong input (of its kinds, HostError where a disk is full or a database gone), and Stopped, a
    KeyboardInterrupt, when interrupted by Ctrl-C or a signal.
    """
    from nas.base.signals import stoppable
    from nas.search.run import check_machine, run_search

    planned = plan(file, name=name, overrides=overrides, resume=resume, results=results)
    for note in planned.notes:
        print(f"note: {note}", file=sys.stderr)
    refuse_running_ray()
    check_machine(planned.config, planned.space, ray_address is not None)
    with stoppable():
        run_search(
            planned.config,
            planned.space,
            planned.run_dir,
            planned.source,
            resume,
            ray_address,
            ship=ship and ray_address is not None,
            retry_failed=retry_failed and resume,
        )
    return Run(planned.run_dir)


def find_runs(folder: str | Path = RESULTS) -> dict[str, Run]:
    """The runs in a folder by their names, the newest first; of a run folder, that run. Raises UserError."""
    return {name: Run(path) for name, path in listing.find_runs(folder).items()}


def measure(
    model: nn.Module,
    input_shape: tuple[int, int, int] = (3, 224, 224),
    costs: Iterable[str] = COSTS,
    *,
    device: str = "cpu",
    batch_size: int = 1,
    dtype: str = "float32",
    runtime: str = "torch",
    threads: int = 1,
) -> dict[str, Any]:
    """What a network costs on images [C, H, W] = `input_shape`: `costs`, of num_params, num_macs (of one image),
    latency_ms and peak_memory_mb (of a batch on `device`), by name.

    A measured latency comes with `latency`, its spread and circumstances; `runtime`, with so many `threads` of a CPU,
    runs the network for it: torch, compile, graph or onnxruntime. Raises ValueError for an unknown cost or runtime.
    """
    from nas.measure import cost

    costs = list(costs)
    for name in costs:
        if name not in COSTS:
            raise ValueError(f"costs = {name!r}: allowed are {', '.join(COSTS)}")
    options = {"device": device, "batch_size": batch_size, "dtype": dtype}
    served = {"latency_ms": {"runtime": runtime, "threads": threads}}
    wanted = [ObjectiveConfig.model_validate({"name": name, **options, **served.get(name, {})}) for name in costs]
    return cost.measure(model, input_shape, wanted, device)


def latency_table(
    file: str | Path, networks: int = 50, *, overrides: Overrides = (), say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Measure each part of the networks of an experiment once, as its objective latency_ms asks, or on the CPU, and how
    well their sums predict `networks` random networks: `text`, `check` (None for no networks) and `milliseconds`.

    What was measured is kept in results/.cache/latency, by device and by how it was measured. Raises UserError.
    """
    import torch

    from nas.measure import latency_table as tables
    from nas.networks.precision import usable_device
    from nas.search.evaluators.context import device_lock
    from nas.search.surrogate.known_costs import channels_and_classes

    config, space = load_experiment(_shipped(Path(file)), as_texts(overrides))
    if config.space.dense is not None:
        raise UserError(f"{file}: its networks are detectors (space.dense), and a table has the parts of classifiers")
    asked = next((one for one in config.objectives if one.name == "latency_ms"), None)
    asked = asked or ObjectiveConfig.model_validate({"name": "latency_ms"})
    on_gpu = config.resources.gpus_per_trial > 0
    device = usable_device(asked.device or ("cuda" if on_gpu else "cpu"))
    channels, classes = channels_and_classes(config.proxy, RESULTS / ".cache")

    def alone(where: torch.device) -> AbstractContextManager:
        return device_lock(where).exclusive()

    folder = RESULTS / ".cache" / LATENCY_TABLES
    table = tables.measure_table(space, channels, config.proxy.resolution, asked, device, folder, alone, say)
    check = tables.check_table(table, space, classes, asked, device, networks, exclusive=alone) if networks else None
    return {"text": tables.to_text(table, check), "check": check, "milliseconds": dict(table.milliseconds)}


def _evaluators_in_words(config: ExperimentConfig) -> str:
    """Such as `zero_cost (snip), after 16 trainings the best 50 %; train`."""
    *filters, last = config.evaluators
    words = [f"{one.label}, after {one.num_trained_first} trainings the best {one.share_kept:.0%}" for one in filters]
    return "; ".join([*words, last.label])


def _shipped(file: Path) -> Path:
    """An experiment file by its path, or one that ships with the package by its name."""
    if not file.exists() and file.parent == Path("search_spaces"):
        shipped = Path(str(resources.files("search_spaces") / file.name))
        if shipped.is_file():
            return shipped
    return file
