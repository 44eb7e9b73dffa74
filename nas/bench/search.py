"""`nas bench search`: hypervolume against trainings and against epochs, of every sampler with and without stopping."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.base.machine import describe_machine
from nas.runs.pareto import hypervolume
from nas.search.halving import SuccessiveHalving, Verdict
from nas.search.samplers import distribution_of, make_sampler
from nas.search.surrogate import Knowledge

SAMPLERS = ("random", "nsga2", "tpe", "gp", "surrogate")
SCHEDULERS = ("none", "mo_asha")
REPEATS_BEFORE_RANDOM, RANDOM_DRAWS = 20, 20_000
IDENTITY = ("space", "sampler", "scheduler", "seed", "trainings")
RESAMPLES = 2000
COLOURS = {"random": "#777F88", "nsga2": "#B07AA1", "tpe": "#F28E2B", "gp": "#59A14F", "surrogate": "#1F6FB2"}
Array = NDArray[np.float64]


class BenchSpace(Protocol):
    """A space in which a training costs nothing; objectives are (error, cost), lower is better."""

    name: str
    epochs: int
    reference: Array
    """The reference point of hypervolumes."""

    @property
    def best_hypervolume(self) -> float:
        """That of the best front there is."""
        ...

    def choices(self) -> dict[str, list]: ...

    def active(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters in effect: equal ones are equal networks."""
        ...

    def cost(self, params: dict[str, Any]) -> float:
        """Known before any training."""
        ...

    def curve(self, params: dict[str, Any], seed: int) -> Array:
        """The error after each epoch [epochs] of a training with that seed."""
        ...

    def true_error(self, params: dict[str, Any]) -> float:
        """The mean of the final error over seeds, by which a search is judged."""
        ...


@dataclass(frozen=True)
class Course:
    """One search: after each training the share of the best hypervolume, and the epochs trained so far."""

    hypervolumes: list[float]
    epochs: list[int]
    suggest_seconds: list[float]
    """CPU time of each proposal."""
    repeats: int
    """Proposals that were known networks, and not trained."""


def simulate(space: BenchSpace, sampler: str, scheduler: str, seed: int, num_trainings: int) -> Course:
    """One search with one worker: asked, trained epoch by epoch, perhaps stopped, told as `nas search` tells it.

    What counts as found are the true values of the trainings that came to their end.
    """
    logging.getLogger("optuna").setLevel(logging.ERROR)
    distributions = {name: distribution_of(values) for name, values in space.choices().items()}
    knowledge = Knowledge(("error", "cost"), None, lambda params: {"cost": space.cost(params)}, space.active)
    study = optuna.create_study(directions=["minimize", "minimize"])
    halving = SuccessiveHalving(space.epochs) if scheduler == "mo_asha" else None
    draw = np.random.default_rng(seed)
    known: set[str] = set()
    found: list[list[float]] = []
    waiting: dict[str, _Training] = {}
    course, repeats, epochs = Course([], [], [], 0), 0, 0
    while len(course.epochs) < num_trainings:
        begin = time.process_time()
        number = len(study.get_trials(deepcopy=False))
        study.sampler = make_sampler(sampler, seed, number, distributions, knowledge)
        trial = study.ask(distributions)
        seconds = time.process_time() - begin
        key = repr(sorted(space.active(trial.params).items()))
        if key in known:
            study.tell(trial, state=TrialState.FAIL)
            repeats += 1
            if repeats % REPEATS_BEFORE_RANDOM == 0:
                study.enqueue_trial(_unknown(space, known, draw))
            continue
        known.add(key)
        course.suggest_seconds.append(seconds)
        name: str | None = str(trial.number)
        waiting[name] = _Training(trial, space.cost(trial.params), space.curve(trial.params, seed))
        while name is not None:  # the new one, and then those that may go on
            training = waiting.pop(name)
            before, verdict = training.epochs, training.go_on(halving)
            epochs += training.epochs - before
            if verdict == "go on":
                study.tell(training.trial, [float(training.curve[-1]), training.cost])
                found.append([space.true_error(training.trial.params), training.cost])
            elif verdict == "stop":
                study.tell(training.trial, state=TrialState.FAIL)
            else:
                waiting[name] = training
            name = halving.promote() if halving else None
        course.epochs.append(epochs)
        share = hypervolume(found, space.reference) / space.best_hypervolume if found else 0.0
        course.hypervolumes.append(share)
    return Course(course.hypervolumes, course.epochs, course.suggest_seconds, repeats)


@dataclass
class _Training:
    """A training that may stop or wait at a rung."""

    trial: optuna.Trial
    cost: float
    curve: Array
    epochs: int = 0

    def go_on(self, halving: SuccessiveHalving | None) -> Verdict:
        """Train up to the next rung that holds it up; "go on" at the end. The trial keeps its curve."""
        verdict: Verdict = "go on"
        while verdict == "go on" and self.epochs < len(self.curve):
            self.epochs += 1
            if halving is not None:
                values = [float(self.curve[self.epochs - 1]), self.cost]
                verdict = halving.report(str(self.trial.number), self.epochs, values)
        rows = [[epoch, round(float(error), 6)] for epoch, error in enumerate(self.curve[: self.epochs], start=1)]
        self.trial.set_user_attr("curve", json.dumps(rows))
        return verdict


def _unknown(space: BenchSpace, known: set[str], draw: np.random.Generator) -> dict[str, Any]:
    for _ in range(RANDOM_DRAWS):
        params = {name: values[draw.integers(len(values))] for name, values in space.choices().items()}
        if repr(sorted(space.active(params).items())) not in known:
            return params
    raise UserError(f"--trainings: {space.name} has hardly more than {len(known)} networks; ask for fewer")


def bench(
    out: Path,
    spaces: Iterable[BenchSpace],
    samplers: Sequence[str],
    schedulers: Sequence[str],
    seeds: Sequence[int],
    num_trainings: int,
    seconds: float = float("inf"),
) -> dict[str, Any]:
    """Run what `out` (JSON) has not yet, for about `seconds`; returns what it then has.

    A run is one space, sampler, scheduler and seed; those of another number of trainings are others.
    """
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    result = read_result(out) if out.exists() else {"circumstances": circumstances(), "runs": []}
    done = {_identity(run) for run in result["runs"]}
    end = time.monotonic() + seconds
    tasks = [
        (space, sampler, scheduler, seed)
        for seed in seeds
        for space in spaces
        for scheduler in schedulers
        for sampler in samplers
    ]
    for space, sampler, scheduler, seed in tasks:
        names = {"space": space.name, "sampler": sampler, "scheduler": scheduler, "seed": seed}
        run = names | {"trainings": num_trainings}
        if _identity(run) in done or time.monotonic() > end:
            continue
        course = simulate(space, sampler, scheduler, seed, num_trainings)
        result["runs"].append(
            run
            | {
                "hypervolume": [round(share, 4) for share in course.hypervolumes],
                "epochs": course.epochs,
                "repeats": course.repeats,
                "suggest_cpu_s": [round(float(np.percentile(course.suggest_seconds, q)), 4) for q in (50, 95)],
            }
        )
        write_atomically(out, json.dumps(result, separators=(",", ":")) + "\n")
    return result


def read_result(path: Path) -> dict[str, Any]:
    """What an earlier call wrote. Raises UserError for any other file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        known = all(run.keys() >= {*IDENTITY, "hypervolume", "epochs", "suggest_cpu_s"} for run in result["runs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{path}: not a file of `nas bench search`; name another one, or remove it")
    return result


def circumstances() -> dict[str, Any]:
    """What the figures of a file were made with."""
    machine = describe_machine(("optuna", "numpy", "scipy", "torch"))
    return {"command": "nas bench search", "cores": os.cpu_count()} | machine


def summary(result: dict[str, Any], at: Sequence[int] = (25, 50, 100)) -> list[dict[str, Any]]:
    """Per kind of space, sampler and scheduler: mean share of the hypervolume with a 95 % bootstrap interval of it."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        kind = run["space"].split()[0]
        groups.setdefault((kind, run["scheduler"], run["sampler"], run["trainings"]), []).append(run)
    lines = []
    for (kind, scheduler, sampler, trainings), runs in groups.items():
        line: dict[str, Any] = {"space": kind, "scheduler": scheduler, "sampler": sampler, "runs": len(runs)}
        for count in at:
            if count <= trainings:
                mean, low, high = interval([run["hypervolume"][count - 1] for run in runs])
                line[f"at {count}"] = [round(mean, 4), round(low, 4), round(high, 4)]
        line["trainings"] = trainings
        line["epochs"] = round(float(np.mean([run["epochs"][-1] for run in runs])), 1)
        line["suggest_cpu_s"] = np.round(np.mean([run["suggest_cpu_s"] for run in runs], axis=0), 4).tolist()
        lines.append(line)
    return lines


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the 95 % interval of it by the bootstrap."""
    array = np.asarray(values, float)
    draws = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(array[draws].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def to_text(result: dict[str, Any]) -> str:
    lines = [
        "space      scheduler  sampler    runs  share of the best hypervolume (95 % interval of the mean) at trainings"
    ]
    for line in summary(result):
        shares = "  ".join(
            f"{name[3:]}: {value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})"
            for name, value in line.items()
            if name.startswith("at ")
        )
        epochs = f"{line['trainings']} in {line['epochs']:,.0f} epochs"
        lines.append(
            f"{line['space']:<10} {line['scheduler']:<10} {line['sampler']:<10} {line['runs']:>4}  {shares}  {epochs}"
        )
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw hypervolume against trainings and against epochs, a row per kind of space, to a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest: dict[tuple, dict[str, Any]] = {}  # the first trainings of a search do not depend on how many follow
    for run in sorted(result["runs"], key=lambda run: run["trainings"]):
        longest[_identity(run)[:-1]] = run
    kinds = list(dict.fromkeys(run["space"].split()[0] for run in result["runs"]))
    if not kinds:
        raise UserError("there are no searches to draw; ask for --spaces or a --table")
    figure, rows = pyplot.subplots(len(kinds), 2, figsize=(11, 4 * len(kinds)), squeeze=False, sharey="row")
    for kind, (by_training, by_epoch) in zip(kinds, rows, strict=True):
        for sampler in SAMPLERS:
            for scheduler, style in zip(SCHEDULERS, ("-", ":"), strict=True):
                runs = [
                    run
                    for run in longest.values()
                    if (run["space"].split()[0], run["sampler"], run["scheduler"]) == (kind, sampler, scheduler)
                ]
                if not runs:
                    continue
                length = min(len(run["hypervolume"]) for run in runs)
                curves = np.array([run["hypervolume"][:length] for run in runs])
                middle = curves.mean(axis=0)
                band = 1.96 * curves.std(axis=0) / max(np.sqrt(len(curves)), 1)
                label = sampler if scheduler == "none" else f"{sampler}, mo_asha"
                epochs = np.mean([run["epochs"][:length] for run in runs], axis=0)
                for axes, x in ((by_training, np.arange(1, length + 1)), (by_epoch, epochs)):
                    axes.plot(x, middle, style, color=COLOURS[sampler], linewidth=1.5, label=label)
                    axes.fill_between(x, middle - band, middle + band, color=COLOURS[sampler], alpha=0.12, linewidth=0)
        by_training.set(xlabel="trainings begun", ylabel="share of the best hypervolume", title=f"{kind}, 95 % bands")
        by_epoch.set(xlabel="epochs trained", xscale="log", title=f"{kind}, against epochs")
        by_epoch.legend(frameon=False, fontsize=8, loc="upper left")
        for axes in (by_training, by_epoch):
            axes.grid(color="#e4e7eb", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _identity(run: dict[str, Any]) -> tuple:
    return tuple(run[name] for name in IDENTITY)
