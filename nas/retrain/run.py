"""Retraining: one chosen architecture, or a selection of a run's front, on one or many devices."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.base.files import write_atomically
from nas.base.process import die_with
from nas.config.overrides import Overrides
from nas.config.reading import load
from nas.data.loading import LoadingFailed
from nas.retrain.job import Job, RetrainError, RetrainFailed, plan_job
from nas.retrain.ray_train import run_on_ray
from nas.retrain.selection import choose
from nas.retrain.supervisor import INTERRUPTED, SUPERVISOR, stop_flag, supervise
from nas.retrain.weights import find_weights, inherited_weights
from nas.retrain.worker import clear_result, has_failed, read_result, run_worker, train_worker
from nas.space.genotype import Genotype
from nas.training.loop import Stopped
from nas.training.process_group import group_from_environment


def run_retrain(
    run_dir: Path,
    key: str,
    data_dir: Path | None,
    overrides: Overrides = (),
    resume: bool = False,
    *,
    recipe: str | None = None,
    num_processes: int = 1,
    ray_address: str | None = None,
    genotype: Genotype | None = None,
    weights: str | None = None,
    name: str = "",
) -> dict[str, Any]:
    """Train the architecture `key` of a run as its file's `retrain` section says, on images in `data_dir`.

    `recipe` replaces that section, `overrides` come on top. A `genotype` is trained instead of one of the run. With
    several processes, each has a device of its own; one that dies is replaced. With a `ray_address` they are workers on
    that cluster. Where a launcher such as torchrun started this process as one of many, it does its part. With
    `weights`, which `nas.retrain.weights` finds, it starts from these as far as they fit.

    Writes to retrain/<key>/ in the run, with a `name` to retrain/<key>-<name>/: metrics.csv (a row per epoch),
    model.safetensors and config.json at the end, best/ with the best epochs, checkpoints in between, from which
    `resume` goes on exactly. Returns a summary with the files' paths. Raises RetrainError for an unknown key, an
    existing retraining or one with other settings, image_cache.DataError for missing images, locks.Locked while another
    process retrains the architecture, RetrainFailed for what ends a training that began, train.Stopped after a SIGTERM.
    """
    group = group_from_environment(os.environ)
    options = {"recipe": recipe, "num_processes": num_processes, "on_cluster": ray_address is not None}
    job = plan_job(run_dir, key, data_dir, overrides, genotype=genotype, name=name, **options)
    folder = Path(job.folder)
    if (folder / "settings.json").exists() and not resume and group.is_main:  # what was refused has none
        raise RetrainError(f"{folder} exists; go on with --resume, or train anew under another --name")
    if weights is not None:
        if weights == "supernet":
            found = inherited_weights(run_dir, job.key, Genotype.from_dict(job.genotype))
        else:
            found = find_weights(weights, run_dir, job.key)
        job = replace(job, weights=str(found))
    if ray_address is not None:
        return run_on_ray(job, num_processes, ray_address)
    if num_processes > 1 and group.world == 1:
        return _supervised(job, num_processes)
    with stop_flag() as stop:
        try:
            return train_worker(job, group, stop)
        except LoadingFailed as end:
            raise RetrainFailed(f"{end}; go on with --resume") from None


def retrain_front(
    run_dir: Path,
    count: int,
    data_dir: Path | None,
    overrides: Overrides = (),
    resume: bool = False,
    *,
    recipe: str | None = None,
    num_processes: int = 1,
    ray_address: str | None = None,
) -> list[dict[str, Any]]:
    """Retrain `count` diverse front members and two controls, one after the other; returns their summaries.

    What was chosen stands in retrain/selection.json, so that `resume` goes on with the same. Raises what `run_retrain`
    raises; what is finished stays.
    """
    path = run_dir / "retrain" / "selection.json"
    options = {"recipe": recipe, "num_processes": num_processes}
    if path.exists() and not resume:
        raise RetrainError(f"{path} exists; go on with --resume, or move it away to choose anew")
    if not path.exists():
        objectives = load(run_dir / "resolved.yaml").objectives
        chosen = {role: record.key for role, record in choose(run_dir, objectives, count).items()}
        plan_job(run_dir, chosen["front-1"], data_dir, overrides, on_cluster=ray_address is not None, **options)
        write_atomically(path, json.dumps(chosen, indent=1))
    summaries = []
    for role, key in json.loads(path.read_text(encoding="utf-8")).items():
        described = run_dir / "retrain" / key / "config.json"
        if not described.exists():
            print(f"{role}: {key}", file=sys.stderr, flush=True)
            run_retrain(run_dir, key, data_dir, overrides, True, ray_address=ray_address, **options)
        found = json.loads(described.read_text(encoding="utf-8"))
        summaries.append({"role": role} | {name: found[name] for name in ("key", "top1", "best_top1", "proxy_top1")})
    return summaries


def _supervised(job: Job, num_processes: int) -> dict[str, Any]:
    """Run the job in processes of this host; raises what they ended with."""
    folder = Path(job.folder)
    job.write()
    clear_result(job)
    code = supervise(
        [sys.executable, "-m", "nas.retrain.run", str(folder)],
        num_processes,
        progress=lambda: max((path.name for path in (folder / "checkpoints").glob("*.json")), default=""),
        say=lambda text: print(f"nas: {text}", file=sys.stderr, flush=True),
    )
    if code == INTERRUPTED and not has_failed(job):
        raise Stopped("stopped before the first step")
    return read_result(job)


def main() -> None:
    """One process of a supervised job: `python -m nas.retrain.run FOLDER`."""
    die_with(int(os.environ[SUPERVISOR]))
    with stop_flag() as stop:
        code = run_worker(Job.read(Path(sys.argv[1])), group_from_environment(os.environ), stop)
    sys.stderr.flush()
    os._exit(code)  # all is written; taking the interpreter down takes seconds


if __name__ == "__main__":
    main()
