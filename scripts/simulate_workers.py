"""How busy workers stay while a sampler proposes: simulate_workers.py [SAMPLER] [WORKERS] [SECONDS] [TRIALS]

Time is simulated, the proposals are real: what each takes is measured (wall time) and spent by the one driver, which
hands out the proposal that it prepared while all workers train, and prepares the next. Trials last SECONDS, 10 % more
or less. Prints JSON: the share of the workers' time spent in trials from the first hand-out to the last.
"""

from __future__ import annotations

import heapq
import json
import sys
import time

import numpy as np
import optuna

from nas.bench.search.run import circumstances
from nas.bench.search.synthetic import SyntheticSpace
from nas.search.samplers import distribution_of, make_sampler
from nas.search.surrogate import Knowledge


def simulated(sampler: str, num_workers: int, trial_seconds: float, num_trials: int, prepares: bool) -> dict:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, draw = SyntheticSpace(0), np.random.default_rng(0)
    distributions = {name: distribution_of(values) for name, values in space.choices().items()}
    knowledge = Knowledge(("error", "cost"), None, lambda params: {"cost": space.cost(params)}, space.active)
    study = optuna.create_study(directions=["minimize", "minimize"])
    taken: list[float] = []

    def proposed() -> optuna.Trial:
        begin = time.perf_counter()
        study.sampler = make_sampler(sampler, 0, len(taken), distributions, knowledge)
        trial = study.ask(distributions)
        taken.append(time.perf_counter() - begin)
        return trial

    free = [(0.0, worker) for worker in range(num_workers)]  # when each worker asks, a heap
    running: dict[int, optuna.Trial] = {}
    driver_free, busy, last, prepared = 0.0, 0.0, 0.0, None
    for number in range(num_trials):
        asked, worker = heapq.heappop(free)
        now = max(asked, driver_free)
        if worker in running:
            trial = running.pop(worker)
            study.tell(trial, [space.curve(trial.params, number)[-1], space.cost(trial.params)])
        if prepared is None:
            prepared = proposed()
            now += taken[-1]
        running[worker], prepared = prepared, None
        seconds = trial_seconds * draw.uniform(0.9, 1.1)
        heapq.heappush(free, (now + seconds, worker))
        busy, last, driver_free = busy + seconds, max(last, now), now
        if prepares and len(running) == num_workers:
            prepared = proposed()
            driver_free += taken[-1]
    ends = [end for end, _ in free]
    inside = busy - sum(max(0.0, end - last) for end in ends)  # what runs on after the last hand-out counts for nothing
    return {
        "sampler": sampler,
        "workers": num_workers,
        "trial_s": trial_seconds,
        "trials": num_trials,
        "prepares": prepares,
        "busy": round(inside / (num_workers * last), 4),
        "suggest_s": dict(
            zip(("p50", "p95", "max"), np.percentile(taken, [50, 95, 100]).round(4).tolist(), strict=True)
        ),
    }


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "surrogate"
    workers, seconds, trials = (float(value) for value in [*sys.argv[2:5], *["8", "5", "300"][len(sys.argv[2:5]) :]])
    runs = [simulated(name, int(workers), seconds, int(trials), prepares) for prepares in (True, False)]
    found = circumstances() | {"command": " ".join(["scripts/simulate_workers.py", *sys.argv[1:]])}
    print(json.dumps(found | {"runs": runs}, indent=1))
