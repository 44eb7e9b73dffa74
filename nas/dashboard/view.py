"""RunView: the data of a run's page, updated incrementally from the run's files."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nas.dashboard.asked.mistakes import mistakes
from nas.dashboard.asked.what_if import Asked, form
from nas.dashboard.columns import SHOWN_STATES, architectures, columns, kinds_of, known_figures, listed, packed
from nas.dashboard.details import details, export_command
from nas.dashboard.findings import explain, findings
from nas.dashboard.notes import NOTES, Note, read_notes, write_note
from nas.runs import retrainings
from nas.runs.findings import volume
from nas.runs.listing import stamp
from nas.runs.metrics import METRICS
from nas.runs.noise import replicates
from nas.runs.pareto import front_positions
from nas.runs.reader import RunReader, reason
from nas.runs.retrainings import best_of_each, kendall, read_retrainings, signature
from nas.runs.summary import state_of, summary
from nas.space.published import PUBLISHED
from nas.space.published_accuracies import published_accuracies
from nas.space.training import training_of, training_words

# a look at the files holds the run for so long at most; what is left is read at the next one
READ_SECONDS = 0.02
MOST_IN_AN_EVENT = 2000
MOST_RATES = 60
T = TypeVar("T")


class RunView:
    """One run for any number of page views; every method may be called from any thread.

    A version is `<token>-<generation>-<length of the log>-<number of unreadable files>-<changes of other files>`: the
    token belongs to this process, so that a page which outlives the server starts anew instead of missing trials.
    """

    def __init__(self, path: Path):
        self.run = RunReader(path)
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._made: dict[str, tuple[str, Any]] = {}
        self._asked = Asked(path)
        self._explaining = threading.Lock()
        self._explained: tuple[str, dict[str, Any]] = "", {}
        self._retrained: dict[str, dict[str, Any]] = {}
        self._notes: dict[str, Note] = {}
        self._retrained_signature: tuple[Any, ...] = ()
        self._num_retrained = 0

    def read(self, seconds: float = READ_SECONDS) -> int:
        """Read what is new for a while; how many files are left."""
        with self._lock:
            self._refresh(seconds)
            return self.run.num_unread

    def version(self) -> str:
        """The version after reading what is new."""
        with self._lock:
            self._refresh()
            return self._version()

    def snapshot(self, since: str = "") -> bytes:
        """All that the page needs to begin with, or all trials that are new since a version; see `columns.packed`."""
        with self._lock:
            self._refresh()
            start = self._log_length(since)
            positions = np.arange(len(self.run.rows)) if start is None else self._positions(start)
            head = {
                "version": self._version(),
                "whole": start is None,
                "metrics": [{"name": name} | asdict(metric) for name, metric in METRICS.items()],
                "states": SHOWN_STATES,
            }
            head |= self._news(set()) | self._beside()
            return packed(head, columns(self.run, positions))

    def changes(self, since: str, told: set[int]) -> dict[str, Any]:
        """What became known after a version; members of the front whose number is in `told` are not described again.

        `reset` where the version is not known here and all must be asked for again; `fetch` where there is too much.
        """
        with self._lock:
            self._refresh()
            start = self._log_length(since)
            if start is None:
                return {"version": self._version(), "reset": True}
            positions = self._positions(start)
            if len(positions) > MOST_IN_AN_EVENT:
                return {"version": since, "fetch": True}
            news = {"version": self._version(), "rows": listed(columns(self.run, positions))} | self._news(told)
            if not since.endswith(f"-{self._num_retrained}"):
                news |= self._beside()
            return news

    def summary(self) -> dict[str, Any]:
        """Progress, counts, failures and hypervolume, without any trial."""
        with self._lock:
            self._refresh()
            return self._summed()

    def trial(self, number: int) -> dict[str, Any]:
        """One trial in full. Raises KeyError for a number that is not in the run."""
        with self._lock:
            self._refresh()
            key = self.run.rows[number].key
            trainings = self._trainings_of(key)
            return details(self.run, number) | {
                "retrained": trainings,
                "seeds": self._once("seeds", self._seeds).get(key),
                "note": self._notes.get(str(self.run.rows[number].number)),
                "export": export_command(self.run, key, any(training["done"] for training in trainings)),
            }

    def mistakes(self, number: int) -> list[dict[str, Any]]:
        """See `mistakes.mistakes`. Raises KeyError for a number that is not in the run."""
        with self._lock:
            self._refresh()
            key = self.run.rows[number].key
            return mistakes(self.run, key, self._trainings_of(key))

    def form(self, number: int) -> dict[str, Any]:
        """See `what_if.form`. Raises KeyError for a number that is not in the run."""
        with self._lock:
            self._refresh()
            return form(self.run, number)

    def what_if(self, params: dict[str, Any], stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """See `what_if.Asked`; the view answers other questions meanwhile."""
        return self._asked.answer(params, stopping)

    def note(self, number: int, given: bytes) -> None:
        """See `write_note`. Raises KeyError for a number that is not in the run."""
        with self._lock:
            self._refresh()
            write_note(self.run.path, self.run.rows[number].number, given)

    def health(self) -> dict[str, Any]:
        """How the search went: hypervolume and pace over time, proxy against retrained."""
        with self._lock:
            self._refresh()
            return self._once("health", self._health)

    def findings(self) -> bytes:
        """See `findings.findings`."""
        with self._lock:
            self._refresh()
            return self._once("findings", lambda: findings(self.run))

    def architectures(self) -> bytes:
        """See `columns.architectures`."""
        with self._lock:
            self._refresh()
            return self._once("architectures", lambda: architectures(self.run))

    def explained(self, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """See `findings.explain`, made once per version while the view answers other questions."""
        with self._explaining:
            version = self.version()
            if self._explained[0] != version:
                self._explained = version, explain(self.run, stopping)
            return self._explained[1]

    def overview(self) -> dict[str, Any]:
        """A line of the page of all runs: the summary, the values of the front, how the hypervolume grew.

        Without the hypervolume itself, which is a share of the run's own box here: `standing` compares.
        """
        with self._lock:
            self._refresh()
            line = {name: value for name, value in self._summed().items() if name != "hypervolume"}
            return line | {
                "front": [self._member(at)["values"] for at in self._front()],
                "growth": self._once("growth", lambda: volume.curve(self.run)),
                "revision": self.run.environment.get("git"),
            }

    def retrained(self) -> list[dict[str, Any]]:
        """The long trainings of its networks as of the last look, see `retrainings.listed`."""
        with self._lock:
            return self._once("listed", lambda: retrainings.listed(self.run, self._retrained))

    def standing(self) -> volume.Standing | None:
        """What compares the run with others, as of the last look; the same object while nothing is new."""
        with self._lock:
            return self._once("standing", lambda: volume.standing(self.run))

    def front(self) -> list[dict[str, Any]]:
        """The members of the front from cheap to dear, as the page is told them."""
        with self._lock:
            self._refresh()
            return [self._member(at) for at in self._front()]

    def _refresh(self, seconds: float = READ_SECONDS) -> None:
        self.run.refresh(seconds)
        found = signature(self.run.path), replicates.signature(self.run.path), stamp(self.run.path / NOTES)
        if found != self._retrained_signature:
            self._retrained_signature = found
            self._retrained = read_retrainings(self.run.path)
            self._notes = read_notes(self.run.path)
            self._num_retrained += 1

    def _version(self) -> str:
        return f"{self._token}-{self.run.version}-{self._num_retrained}"

    def _log_length(self, version: str) -> int | None:
        """How long the log was at a version; None for one that is not of this process and generation."""
        now, before = self._version().split("-"), version.split("-")
        alike = before[:2] == now[:2] and len(before) == len(now) and before[2].isdecimal()
        return min(int(before[2]), len(self.run.log)) if alike else None

    def _positions(self, start: int) -> np.ndarray:
        """Positions of the trials in the log from `start` on, each once."""
        return np.array([self.run.rows.positions[number] for number in dict.fromkeys(self.run.log[start:])], np.int64)

    def _news(self, told: set[int]) -> dict[str, Any]:
        """What goes with every answer; adds the members that it describes to `told`."""
        members = [self._member(at) for at in self._front()]
        fresh = [member for member in members if member["number"] not in told]
        told.update(member["number"] for member in fresh)
        return {
            "summary": self._summed(),
            "operators": kinds_of(self.run),
            "kinds": dict(self.run.kinds),
            "labels": list(self.run.kinds),
            "figures": self._once("figures", lambda: known_figures(self.run)),
            "front": [member["number"] for member in members],
            "members": fresh,
            "references": self._once("references", self._references),
            "retrained": self._once("retrained", self._retrained_points),
        }

    def _beside(self) -> dict[str, Any]:
        """What changes with other files than those of trials."""
        return {"published": self._once("published", self._published), "notes": self._notes}

    def _front(self) -> list[int]:
        run = self.run
        return self._once(
            "front",
            lambda: front_positions(run.rows.points(run.objectives), run.objectives, run.rows.column("number")),
        )

    def _member(self, at: int) -> dict[str, Any]:
        row, table = self.run.rows.row(at), self.run.rows
        low, high = (float(table.column(name)[at]) for name in ("latency_low", "latency_high"))
        return {
            "number": row.number,
            "key": row.key,
            "values": row.costs | row.objectives,
            "operators": row.operators,
            "training": self._training(row.number),
            "latency": [low, high] if low == low else None,
            "disturbed": row.number in self.run.disturbed,
            "seeds": self._once("seeds", self._seeds).get(row.key),
        }

    def _training(self, number: int) -> str:
        """What a search chose of the training, in words; empty where all trainings are alike."""
        config = self.run.config
        return training_words(training_of(self.run.record(number).params)) if config and config.training_choices else ""

    def _seeds(self) -> dict[str, dict[str, Any]]:
        """Key -> how the accuracies of a network that was trained more than once scatter, and its trials' numbers."""
        table = self.run.rows
        figure = self.run.config.trained if self.run.config else "top1"
        top1, complete, numbers = table.measured(figure), table.in_state("complete"), table.column("number")
        found: dict[str, list[int]] = {}
        for at, key in enumerate(table.keys):
            if complete[at]:
                found.setdefault(key, []).append(at)
        again = replicates.accuracies(self.run.path)
        trainings = {
            key: np.concatenate([top1[same], *(again.get(int(numbers[at]), []) for at in same)])
            for key, same in found.items()
            if len(same) > 1 or int(numbers[same[0]]) in again
        }
        return {
            key: {
                "count": len(each),
                "mean": float(each.mean()),
                "sd": float(each.std(ddof=1)),
                "numbers": sorted(numbers[found[key]].tolist()),
            }
            for key, each in trainings.items()
            if not np.isnan(each).any()
        }

    def _summed(self) -> dict[str, Any]:
        """The summary, made once per version but for the state, which changes with time alone."""
        made = self._once(
            "summary", lambda: summary(self.run) | {"examples": self._examples(), "hypervolume": volume.gain(self.run)}
        )
        state = state_of(self.run)
        waiting = self._under_way() if state == "waiting" else {}
        return made | {"state": state, "unread": self.run.num_unread} | waiting

    def _under_way(self) -> dict[str, Any]:
        """What is known before the first trial has finished."""
        begun = self.run.environment.get("time")
        folders = (self.run.path / "checkpoints").glob("[0-9]*")
        return {
            "begun": begun if isinstance(begun, int | float) else None,
            "under_way": sorted(int(folder.name) for folder in folders if folder.name.isdecimal()),
        }

    def _examples(self) -> dict[str, list[Any]]:
        """Kind of a failure -> the number and message of the first trial that ended so."""
        examples: dict[str, list[Any]] = {}
        numbers, failed = self.run.rows.column("number"), self.run.rows.in_state("failed")
        for at, error in self.run.rows.errors.items():
            if failed[at]:
                examples.setdefault(reason(error), [int(numbers[at]), error])
        return examples

    def _references(self) -> list[dict[str, Any]]:
        """The published networks among the trials: they ran the same proxy on the same device."""
        names = _published_keys()
        return [
            {"number": self.run.rows.row(at).number, "name": names[key]}
            for at, key in enumerate(self.run.rows.keys)
            if key in names
        ]

    def _published(self) -> list[dict[str, Any]]:
        """Published accuracies, once a network of the run was retrained on as many classes: the axis is that of both.

        Their costs are told where the run counts them alike.
        """
        stated = published_accuracies()
        if all(training["num_classes"] != stated["num_classes"] for training in self._retrained.values()):
            return []
        proxy = self.run.config.proxy if self.run.config else None
        alike = ["num_params", "num_macs"] if proxy and proxy.resolution == stated["resolution"] else ["num_params"]
        return [
            {fact: network[fact] for fact in ("top1", "paper", "training")}
            | {"name": name, "values": {cost: network[cost] for cost in alike}}
            for name, network in stated["networks"].items()
        ]

    def _retrained_points(self) -> list[dict[str, Any]]:
        """The long trainings with the trial that each network comes from."""
        return [
            {"number": self.run.rows.row(at).number}
            | {name: value for name, value in training.items() if name != "curve"}
            for at, key in enumerate(self.run.rows.keys if self._retrained else ())
            if self.run.rows.row(at).state == "complete"
            for training in reversed(self._trainings_of(key))
        ]

    def _trainings_of(self, key: str) -> list[dict[str, Any]]:
        """The long trainings of a network, the most accurate first."""
        found = [training for training in self._retrained.values() if training["key"] == key]
        return sorted(found, key=lambda training: -training["top1"])

    def _health(self) -> dict[str, Any]:
        table = self.run.rows
        top1 = table.measured("top1")
        points = self._once("retrained", self._retrained_points)
        best = best_of_each(points).values()
        pairs = [(float(top1[table.positions[point["number"]]]), point["top1"]) for point in best]
        return {
            "version": self._version(),
            "volume": volume.curve(self.run),
            "pace": _pace(table.column("finished")[~table.in_state("rejected")]),
            "agreement": kendall([pair for pair in pairs if pair[0] == pair[0]]),
        }

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once per version."""
        version = self._version()
        if name not in self._made or self._made[name][0] != version:
            self._made[name] = version, make()
        return self._made[name][1]


def _pace(finished: np.ndarray) -> dict[str, list[float]] | None:
    """Trainings per minute over the time of the run: middle of each slice as Unix time, and the rate in it."""
    if len(finished) < 2 or finished.min() == finished.max():
        return None
    counts, edges = np.histogram(finished, bins=min(MOST_RATES, max(len(finished) // 4, 4)))
    return {"time": ((edges[:-1] + edges[1:]) / 2).tolist(), "per_minute": (60 * counts / np.diff(edges)).tolist()}


@cache
def _published_keys() -> dict[str, str]:
    """Key -> name of the published networks."""
    return {genotype.key: name for name, genotype in PUBLISHED.items()}
