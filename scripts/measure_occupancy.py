"""How busy a search keeps the places it has: measure_occupancy.py [PLACES] [SETUP_S] [TRIAL_S] [TRIALS] [SAMPLER]

The real driver on a real Ray cluster of its own, with a node of as many CPUs as places; only the trials sleep, for
TRIAL_S seconds, 10 % more or less, after SETUP_S in which their worker starts. Prints JSON, from the records:
`busy` is the share of the places' time spent in trials from the moment the last worker is up to the last hand-out,
`busy_whole` that from the first trial's begin; `at_once` how many trials ran at the ends of ten equal parts of the
time; `starts_s` the seconds from the first worker's start to the last one's, and `ups_s` those between their ends;
`driver_cpu_s` the driver's CPU seconds per trial, those of its own start among them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.clusters import cluster
from helpers.searches import write_experiment
from nas.base.ray_session import end_after_ray, prepare_environment
from nas.bench.search.run import circumstances
from nas.config.reading import load_experiment
from nas.runs.folder import write_run
from nas.runs.record import TrialRecord, write_record
from nas.search.run import run_search
from nas.space.genotype import Genotype


def sleeper() -> type:
    """A worker whose trials sleep; their records have its process, and when it began and was up, among the costs."""
    from ray import tune  # Ray reads its environment when it is imported

    class Sleeper(tune.Trainable):
        def setup(self, config: dict, experiment: str, run_dir: str, num_threads: int, on_gpu: bool) -> None:
            self.run_dir, self.begin = Path(run_dir), time.time()
            self.setup_s, self.trial_s = json.loads((self.run_dir / "sleeps.json").read_text(encoding="utf-8"))
            time.sleep(self.setup_s)
            self.up = time.time()
            self.reset_config(config)

        def reset_config(self, new_config: dict) -> bool:
            self.task, self.started = new_config, time.time()
            return True

        def step(self) -> dict:
            number = self.task["number"]
            time.sleep(self.trial_s * (0.9 + 0.2 * (number * 7919 % 100) / 99))
            genotype = Genotype.from_json(self.task["genotype"])
            record = TrialRecord(
                number=number,
                key=genotype.key,
                state="complete",
                genotype=genotype.to_dict(),
                params=self.task["params"],
                objectives={"top1": number * 31 % 97 / 100, "num_params": 1000.0 + number},
                costs={"process": os.getpid(), "begin": self.begin, "up": self.up},
                started=self.started,
                finished=time.time(),
            )
            write_record(self.run_dir, record)
            return {"rows": [], "record": record.to_json(), "done": True}

    return Sleeper


def occupancy(records: list[TrialRecord], places: int) -> dict:
    """The figures of a finished search."""
    begin, end = min(record.started for record in records), max(record.finished for record in records)
    workers = {record.costs["process"]: (record.costs["begin"], record.costs["up"]) for record in records}
    begins, ups = ([times[i] for times in workers.values()] for i in (0, 1))
    handed_out = max(record.started for record in records)

    def busy(since: float, until: float) -> float:
        spent = sum(max(0.0, min(record.finished, until) - max(record.started, since)) for record in records)
        return round(spent / (places * (until - since)), 3)

    looks = [begin + (end - begin) * i / 10 for i in range(1, 11)]
    at_once = [sum(record.started < look <= record.finished for record in records) for look in looks]
    return {
        "trials": len(records),
        "seconds": round(end - begin, 1),
        "workers": len(workers),
        "starts_s": round(max(begins) - min(begins), 1),
        "ups_s": round(max(ups) - min(ups), 1),
        "at_once": at_once,
        "busy": busy(max(ups), handed_out) if max(ups) < handed_out else None,
        "busy_whole": busy(begin, handed_out),
    }


def slept(
    folder: Path, address: str, setup_s: float, trial_s: float, num_trials: int, sampler: str
) -> list[TrialRecord]:
    """The records of a search in `folder/run` on the cluster at an address."""
    prepare_environment(address)
    experiment, run_dir = write_experiment(folder), folder / "run"
    sizes = [f"search.num_trials={num_trials}", f"search.sampler={sampler}", "resources={max_concurrent: null}"]
    sizes += ["search.replicates=0"]
    config, space = load_experiment(experiment, sizes)
    write_run(run_dir, experiment, config)
    (run_dir / "sleeps.json").write_text(json.dumps([setup_s, trial_s]), encoding="utf-8")
    return run_search(config, space, run_dir, experiment, True, address, sleeper())


def measured(places: int, setup_s: float, trial_s: float, num_trials: int, sampler: str) -> dict:
    """One search in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="opnas-occupancy-") as folder, cluster(places) as ray:
        os.environ.update(ray.environment)
        records = slept(Path(folder), ray.address, setup_s, trial_s, num_trials, sampler)
    cpu = {"driver_cpu_s": round(time.process_time() / num_trials, 4)}
    settings = {"places": places, "setup_s": setup_s, "trial_s": trial_s, "sampler": sampler}
    return settings | cpu | occupancy([record for record in records if record.state == "complete"], places)


if __name__ == "__main__":
    given = [*sys.argv[1:], *["12", "5", "10", "60", "random"][len(sys.argv) - 1 :]]
    found = circumstances() | {"command": " ".join(["scripts/measure_occupancy.py", *sys.argv[1:]])}
    load = os.getloadavg()[0]
    run = measured(int(given[0]), float(given[1]), float(given[2]), int(given[3]), given[4])
    print(json.dumps(found | {"load_before": load, "load_after": os.getloadavg()[0], **run}, indent=1))
    end_after_ray(0)
