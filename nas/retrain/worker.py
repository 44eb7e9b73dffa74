"""One process of a training: builds data, network and options, runs the loop; the main process writes the results."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.base.errors import UserError
from nas.base.extensions import keep
from nas.base.files import write_atomically
from nas.base.locks import RunLock
from nas.config.training import RetrainConfig, resolution
from nas.data.batches import OpenedSource, Shard, Source
from nas.data.loading import LoadingFailed, loading_explained
from nas.data.sources import open_source
from nas.networks.model import Network, build_model
from nas.networks.precision import DTYPES, training_dtype
from nas.networks.weights import Fit, load_fitting
from nas.retrain.job import Job, RetrainError, RetrainFailed
from nas.retrain.memory import TrainingMemory, memory_bytes, training_memory
from nas.retrain.settings import check_settings
from nas.retrain.supervisor import DIVERGED, FAILED, INTERRUPTED, USAGE
from nas.retrain.teacher import load_teacher
from nas.retrain.training_log import TrainingLog, opening
from nas.retrain.weights import names_beside
from nas.space.genotype import Genotype
from nas.training.engine import Engine
from nas.training.loop import NonFiniteLoss, Score, Stopped, measure_score, train
from nas.training.process_group import ProcessGroup, connected
from nas.training.process_state import keep_compiled_kernels, reset_process
from nas.training.result import WEIGHTS, save_weights, write_result

FULL = (errno.ENOSPC, errno.EDQUOT)
ERRORS: dict[int, type[Exception]] = {
    USAGE: RetrainError,
    DIVERGED: NonFiniteLoss,
    FAILED: RetrainFailed,
    INTERRUPTED: Stopped,
}


@dataclass(frozen=True)
class TrainingSetup:
    """What a worker trains, how and where."""

    config: RetrainConfig
    device: torch.device
    source: OpenedSource
    model: nn.Module
    engine: Engine
    fit: Fit | None
    """Of the weights that the training starts from, if there are any and it has not begun."""


def set_up(job: Job, group: ProcessGroup) -> TrainingSetup:
    """Build images, network and options of one process of a group. Raises RetrainError and image_cache.DataError."""
    config = RetrainConfig.model_validate(job.config)
    keep(Path(job.folder), job.code)
    device = torch.device("cuda", group.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif config.batch_norm == "sync" and group.world > 1:
        raise RetrainError("retrain.batch_norm: sync needs GPUs; reduce works everywhere")
    source = open_source(
        config,
        seed=job.seed,
        device=device,
        cache_dir=Path(job.cache_dir),
        data_dir=None if job.data_dir is None else Path(job.data_dir),
        num_workers=job.num_workers,
        shard=Shard(group.rank, group.world, -(-_own_images(config, group) // _images_at_once(config, group))),
    )
    keep_compiled_kernels(Path(job.cache_dir))
    genotype = Genotype.from_dict(job.genotype)

    def build() -> Network:
        return build_model(genotype, source.num_classes, source.in_channels, config.drop_path)

    begun = any((Path(job.folder) / "checkpoints").glob("*.json"))
    if not begun:  # else this was asked when it began
        parts = source.steps_per_epoch * source.shard.world * source.shard.accumulation_steps
        count = -(-source.num_train // parts)
        check_memory(_needed(build, config, source, device, count), memory_bytes(device), count, config, device)
    sides = [resolution(config, epoch) for epoch in range(config.num_epochs)]
    reset_process(job.seed, num_threads=job.num_threads)
    model, fit = build(), None
    if job.weights is not None and not begun:
        weights = Path(job.weights)
        fit = load_fitting(model, weights, source.class_names, names_beside(weights))
    engine = Engine(
        group=group,
        sync_batch_norm=config.batch_norm == "sync",
        compile=config.compile,
        recompute=config.recompute,
        teacher=None if config.teacher is None else load_teacher(config.teacher, source, sides, device),
        distillation=config.distillation,
        distillation_temperature=config.distillation_temperature,
        skip_nonfinite=True,
        patience=config.patience_epochs,
        mixup_epochs=config.mixup_epochs,
        evaluate_every=config.evaluate_every,
    )
    return TrainingSetup(config, device, source, model, engine, fit)


def train_worker(job: Job, group: ProcessGroup, stop: Any = None, checkpoint_seconds: float = 10.0) -> dict[str, Any]:
    """Train as one process of a group; the main one writes. Returns its summary, {} in the others.

    `stop()` says whether to save and end, `checkpoint_seconds` how often everything is saved, as `train` explains it.
    """
    folder = Path(job.folder)
    setup = set_up(job, group)
    config, source = setup.config, setup.source
    settings = config.model_dump(mode="json", exclude=config.OF_THE_MACHINE)
    settings |= {
        "seed": job.seed,
        "images": source.fingerprint,
        "evaluation_images": source.evaluation_fingerprint,
    }
    if job.weights is not None:
        settings["weights"] = job.weights
    if job.code:
        settings["code"] = hashlib.sha256(json.dumps(job.code, sort_keys=True).encode()).hexdigest()[:12]
    lock = RunLock(folder / "lock") if group.is_main else RunLock(folder / f"lock-{group.rank}")
    with loading_explained(), lock, connected(group, setup.device):
        if not any((folder / "checkpoints").glob("*.json")):
            source.check()
        if group.is_main:
            check_settings(folder / "settings.json", settings)
            fit = setup.fit.lines(str(job.weights)) if setup.fit else []
            for line in (*opening(config, source, setup.device, group.world), *fit):
                print(line, file=sys.stderr, flush=True)
        log = TrainingLog(folder, job.key, config, source.steps_per_epoch, source.num_train) if group.is_main else None
        keeper = _Keeper(folder / "best", config.keep_best)
        rows = []
        try:
            with memory_explained(setup):
                for row in train(
                    setup.model,
                    source,
                    config,
                    seed=job.seed,
                    device=setup.device,
                    checkpoint_dir=folder / "checkpoints",
                    checkpoint_seconds=checkpoint_seconds,
                    key=job.key,
                    engine=replace(setup.engine, stop=stop, on_step=log.step if log else None, on_epoch=keeper),
                ):
                    rows.append(row)
                    if log:
                        log.row(row)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RetrainFailed(f"{folder}: no space left; what was saved is whole, go on with --resume") from None
        finally:
            if log:
                log.close()
        dtype = training_dtype(config.amp, setup.device)
        plain = None if dtype is None else measure_score(setup.model, source, group=group)
        return _conclude(job, setup, rows, plain) if group.is_main else {}


def run_worker(job: Job, group: ProcessGroup, stop: Any = None) -> int:
    """Run `train_worker`, write its summary or its error to a JSON file for `read_result`, and return the exit code.

    An error that a restart may mend, such as a lost connection, is raised and not written.
    """
    folder = Path(job.folder)
    try:
        summary = train_worker(job, group, stop)
    except LoadingFailed:
        raise
    except (UserError, NonFiniteLoss, RetrainFailed, Stopped) as error:
        code = next((code for code, kind in ERRORS.items() if isinstance(error, kind)), USAGE)
        write_atomically(folder / "error.json", json.dumps({"code": code, "reason": str(error)}))
        return code
    if group.is_main:
        write_atomically(folder / "result.json", json.dumps(summary))
    return 0


def clear_result(job: Job) -> None:
    """Remove the result that an earlier run left."""
    for name in ("result.json", "error.json"):
        (Path(job.folder) / name).unlink(missing_ok=True)


def has_failed(job: Job) -> bool:
    """Whether a worker ended with an error that a restart would not mend."""
    return (Path(job.folder) / "error.json").exists()


def read_result(job: Job) -> dict[str, Any]:
    """The summary that `run_worker` wrote; raises the error that it wrote."""
    folder = Path(job.folder)
    if has_failed(job):
        found = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        raise ERRORS[found["code"]](found["reason"])
    if not (folder / "result.json").exists():
        raise RetrainFailed("its processes died again and again; their messages stand above")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def _needed(
    build: Callable[[], Network], config: RetrainConfig, source: Source, device: torch.device, count: int
) -> TrainingMemory:
    """What a step with so many images at once needs, of the largest that come."""

    def built() -> Network:
        model = build()
        model.set_grad_checkpointing(config.recompute)
        return model

    size = max(resolution(config, epoch) for epoch in range(config.num_epochs))
    need = training_memory(built, (count, source.in_channels, size, size), config, device)
    # a compiler may keep fewer activations, how many is not known
    return replace(need, activations=0) if config.compile else need


def check_memory(need: TrainingMemory, there: int, count: int, config: RetrainConfig, device: torch.device) -> None:
    """Raise RetrainError where what a step with `count` images at once needs is more than `there` is, in bytes."""
    if need.total() <= there:
        return
    capacity = f"{device} has {there / 1e9:,.1f} GB{' free' if device.type == 'cuda' else ''}"
    if need.total(0) > there:
        raise RetrainError(
            f"retrain.optimizer: the weights, their gradients and the state of {config.optimizer} need at least "
            f"{need.total(0) / 1e9:,.1f} GB of memory; {capacity}"
        )
    if need.total(1 / count) > there:
        advice = "not even one fits; a smaller retrain.resolution may"
    else:
        advice = _in_parts(count * (there - need.lasting - need.gradients) / need.activations)
    raise RetrainError(
        f"retrain.batch_size: {count} images at once at retrain.resolution={config.resolution} need at least "
        f"{need.total() / 1e9:,.1f} GB of memory; {capacity}; {advice}"
    )


def _in_parts(count: float) -> str:
    return f"--set retrain.device_batch_size={max(int(count), 1)} accumulates them in parts"


@contextmanager
def memory_explained(setup: TrainingSetup) -> Iterator[None]:
    """Turn the end of a device's memory into a RetrainError that says what would fit."""
    try:
        yield
    except torch.OutOfMemoryError:
        count = _images_at_once(setup.config, setup.engine.group)
        raise RetrainError(
            f"retrain.batch_size: {count} images at once need more memory than {setup.device} has; "
            f"{_in_parts(count / 2)}"
        ) from None


def _own_images(config: RetrainConfig, group: ProcessGroup) -> int:
    """Images of a step that one process takes."""
    return -(-config.batch_size // group.world)


def _images_at_once(config: RetrainConfig, group: ProcessGroup) -> int:
    return min(config.device_batch_size or config.batch_size, _own_images(config, group))


class _Keeper:
    """Keeps the weights of the best epochs, as they were evaluated."""

    def __init__(self, folder: Path, count: int):
        self._folder, self._count = folder, count

    def __call__(self, row: dict[str, float], networks: dict[str, nn.Module]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        save_weights(networks["evaluated"], self._folder / f"epoch-{row['epoch']:04d}-{row['top1']:.6f}.safetensors")
        found = sorted(self._folder.glob("epoch-*.safetensors"), key=lambda path: path.stem.split("-")[:0:-1])
        for path in found[: -self._count]:
            path.unlink()


def _conclude(job: Job, setup: TrainingSetup, rows: list[dict], plain: Score | None) -> dict[str, Any]:
    """Write weights and description; returns the summary. `plain` is the score in float32 after a training that was
    scored in another format."""
    folder, config, source = Path(job.folder), setup.config, setup.source
    best = max((row for row in rows if "top1" in row), key=lambda row: row["top1"])
    summary = {
        "key": job.key,
        "top1": rows[-1]["top1"],
        "top5": rows[-1]["top5"],
        "dtype": {dtype: name for name, dtype in DTYPES.items()}[training_dtype(config.amp, setup.device)],
        **({} if plain is None else {"top1_float32": plain.top1, "top5_float32": plain.top5}),
        "best_top1": best["top1"],
        "best_epoch": best["epoch"],
        "proxy_top1": job.proxy_top1,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": sum(row["images_per_second"] for row in rows) / len(rows),
        "skipped_steps": rows[-1]["skipped_steps"],
        "num_classes": source.num_classes,
        "in_channels": source.in_channels,
        "resolution": config.evaluation_resolution or config.resolution,
        "weights": str(folder / WEIGHTS),
    }
    bad = sorted(getattr(source, "bad_images", ()))
    if bad:
        write_atomically(folder / "bad_images.txt", "\n".join(bad) + "\n")
        summary["bad_images"] = len(bad)
    described = summary | {
        "class_names": list(source.class_names),
        "preparation": source.preparation.to_dict(),
        "genotype": job.genotype,
        "training": job.config | {"seed": job.seed},
        "weights_from": json.loads((folder / "settings.json").read_text(encoding="utf-8")).get("weights"),
    }
    write_result(folder, setup.model, described)
    return summary
