"""Random Optuna studies with the surrogate sampler, searched to their ends: fuzz_sampler.py [STUDIES] [FIRST_SEED]

Conditional and flat spaces of all kinds of parameters; one to three objectives with values that are huge, equal,
infinite, missing or pruned; attributes of somebody else; constraints; queued trials; several trials at once. Prints
JSON: how many studies and trials there were, and the seed and error of every study that did not come to its end.
Exits 1 if there is one.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
import warnings
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.bench.search.run import circumstances
from nas.search.surrogate import SurrogateSampler

TRIALS = 45
"""So many that a conditional space's common part repeats."""
KINDS = ("float", "log", "int", "stepped", "wide", "category", "single")
ODDITIES = ("none", "equal", "inf", "fail", "prune")


class FuzzedStudy:
    """A random study, drawn from `seed`: what it asks for, what it finds, and what is odd about it."""

    def __init__(self, seed: int):
        self.draw = draw = random.Random(seed)
        self.seed, self.kinds = seed, [draw.choice(KINDS) for _ in range(draw.randint(1, 6))]
        self.scale, self.odd = 10.0 ** draw.randint(-12, 12), draw.choice(ODDITIES)
        self.conditional = draw.random() < 0.5
        self.num_objectives = 1 if self.odd == "prune" else draw.randint(1, 3)
        self.at_once = draw.choice([1, 1, 4])
        constrained = draw.random() < 0.25
        sampler = SurrogateSampler(seed=seed, constraints_func=_over if constrained else None)
        directions = [draw.choice(list(StudyDirection)[1:]) for _ in range(self.num_objectives)]
        self.study = optuna.create_study(directions=directions, sampler=sampler)
        if draw.random() < 0.2:
            first = {"single": 4, "category": None}.get(self.kinds[0], 1)
            self.study.enqueue_trial({"p0": first})

    def run(self, num_trials: int) -> optuna.Study:
        """The study after its last trial."""
        for begin in range(0, num_trials, self.at_once):
            for trial in [self.study.ask() for _ in range(min(self.at_once, num_trials - begin))]:
                self._tell(trial)
        return self.study

    def _tell(self, trial: optuna.Trial) -> None:
        found = self._asked(trial)
        trial.set_user_attr("over", found - 1)
        trial.set_user_attr("curve", self.draw.choice(["of somebody else", "[[1, 0.5]]", "[1]", "{}"]))
        strange = self.draw.random() < 0.2
        if self.odd == "prune":
            trial.report(found * self.scale, 0)
        if self.odd in ("prune", "fail") and strange:
            self.study.tell(trial, state=TrialState.PRUNED if self.odd == "prune" else TrialState.FAIL)
            return
        found = 1.0 if self.odd == "equal" else float("inf") if self.odd == "inf" and strange else self.scale * found
        self.study.tell(trial, [found * (1 if n % 2 else -1) for n in range(self.num_objectives)])

    def _asked(self, trial: optuna.Trial) -> float:
        found = 0.0
        for n, kind in enumerate(self.kinds):
            if n == 0 or found < 5 or not self.conditional:
                found += self._value(trial, f"p{n}", kind)
        return found

    def _value(self, trial: optuna.Trial, name: str, kind: str) -> float:
        if kind == "category":
            return ["a", None, "b"].index(trial.suggest_categorical(name, ["a", None, "b"]))
        if kind == "int":
            return trial.suggest_int(name, -3, 9, step=3)
        if kind == "wide":
            return trial.suggest_int(name, 1, 10**6, log=self.seed % 3 == 0) / 10**6
        if kind == "single":
            return trial.suggest_int(name, 4, 4)
        if kind == "stepped":
            return trial.suggest_float(name, 0.0, 0.9, step=0.3)
        return trial.suggest_float(name, 1e-5, 1.0, log=kind == "log")


def _over(trial: FrozenTrial) -> tuple[float]:
    return (trial.user_attrs["over"],)


def main(num_studies: int, first: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    begin, crashed, num_trials = time.process_time(), [], 0
    for seed in range(first, first + num_studies):
        try:
            num_trials += len(FuzzedStudy(seed).run(TRIALS).trials)
        except Exception:  # whatever the sampler raises is what is looked for
            crashed.append({"seed": seed, "error": traceback.format_exc().splitlines()[-6:]})
    return {
        "studies": num_studies,
        "first_seed": first,
        "trials": num_trials,
        "crashed": crashed,
        "cpu_s": round(time.process_time() - begin, 1),
    }


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:]), *[1000, 0][len(sys.argv) - 1 :]]
    found = main(*given)
    command = {"command": " ".join(["scripts/fuzz_sampler.py", *sys.argv[1:]])}
    print(json.dumps(circumstances() | command | found, indent=1))
    sys.exit(1 if found["crashed"] else 0)
