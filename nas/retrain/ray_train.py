"""Training on a Ray cluster with Ray Train: one worker per device; when one of them dies, all are restarted."""

from __future__ import annotations

import csv
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.base.ray_session import prepare_environment, ray_folder
from nas.data.images.hub_images import is_hub
from nas.retrain.job import Job, RetrainError, RetrainFailed
from nas.retrain.worker import clear_result, has_failed, read_result, run_worker
from nas.training.process_group import SILENCE_SECONDS, ProcessGroup

MAX_RESTARTS = 3
HERE = "local"
"""An address that means a Ray of our own on this host."""
LOOK_SECONDS = 0.5


def run_on_ray(job: Job, num_workers: int, address: str) -> dict[str, Any]:
    """Run a job with Ray Train on the cluster at `address`; returns its summary.

    The job's folder must be on a disk that all hosts share. A worker that dies ends all, and all go on from the last
    checkpoint, three times at most. What runs when this process is interrupted is lost back to the last checkpoint.
    Raises what `nas.retrain.run.run_retrain` raises, RetrainError for more workers than the cluster has room for,
    MachineError for a cluster that cannot be reached.
    """
    folder = Path(job.folder)
    cluster = None if address == HERE else address
    prepare_environment(cluster)
    from nas.base.ray_session import start_ray, stop_ray  # Ray reads its environment when it is imported

    clear_result(job)
    shutil.rmtree(folder / "ray", ignore_errors=True)  # Ray Train would go on with what it did before
    shutil.rmtree(ray_folder(folder), ignore_errors=True)
    start_ray(ray_folder(folder), cluster)
    try:
        # Ray prints the deaths of its workers to stdout, which is for the summary alone
        with redirect_stdout(sys.stderr), _epochs_printed(folder / "metrics.csv"):
            _fit(_absolute(job), num_workers)
    finally:
        stop_ray()
        shutil.rmtree(ray_folder(folder), ignore_errors=True)
    shutil.rmtree(folder / "ray", ignore_errors=True)
    return read_result(job)


def _fit(job: Job, num_workers: int) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") else "CPU"
    if there.get(kind, 0) < num_workers:  # Ray would wait for more of them without a word
        raise RetrainError(f"--devices {num_workers}: the cluster has {there.get(kind, 0):g} {kind}s")
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": asdict(job)},
        torch_config=TorchConfig(timeout_s=int(SILENCE_SECONDS)),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=kind == "GPU"),
        run_config=RunConfig(
            name="train", storage_path=str(Path(job.folder) / "ray"), failure_config=FailureConfig(MAX_RESTARTS)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps what its workers raise in kinds of its own
        if has_failed(job):
            return
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RetrainFailed(f"{job.folder}: {lines[-1].strip()}; go on with --resume") from None


def _work(config: dict[str, Any]) -> None:
    """One worker; Ray has connected it to the others already."""
    from ray import train
    from ray.train.torch import get_device

    job = Job(**config["job"])
    if has_failed(job):  # a restart would end in the same way
        return
    context, device = train.get_context(), get_device()
    group = ProcessGroup(context.get_world_rank(), context.get_world_size(), getattr(device, "index", None) or 0)
    if run_worker(job, group) and group.world > 1:
        raise RuntimeError("ended; the others must not wait for this worker")


def _absolute(job: Job) -> Job:
    """The job with paths that mean the same in any folder."""
    data_dir = job.data_dir
    if data_dir is not None and not is_hub(Path(data_dir)):
        data_dir = str(Path(data_dir).resolve())
    return replace(
        job, folder=str(Path(job.folder).resolve()), cache_dir=str(Path(job.cache_dir).resolve()), data_dir=data_dir
    )


@contextmanager
def _epochs_printed(metrics: Path) -> Iterator[None]:
    """Say each finished epoch on this terminal, by the file that the main worker writes."""
    over = threading.Event()

    def follow() -> None:
        said = len(_rows(metrics))
        while not over.wait(LOOK_SECONDS):
            for row in _rows(metrics)[said:]:
                said += 1
                accuracy = f"  top1 {float(row['eval_top1']) / 100:.4f}" if row.get("eval_top1") else ""
                loss = float(row["train_loss"])
                print(f"epoch {row['epoch']}  loss {loss:.4f}{accuracy}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _rows(metrics: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(metrics.read_text(encoding="utf-8").splitlines())) if metrics.exists() else []
