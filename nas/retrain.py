"""Retraining: an architecture trained at length with the one loop, on one or many devices; what it writes."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from nas import config as configuration
from nas.batches import Share
from nas.engine import Engine
from nas.errors import UserError
from nas.genotype import Genotype
from nas.launch import DIVERGED, FAILED, INTERRUPTED, USAGE, die_with_parent, stop_flag, supervise
from nas.model import build_model
from nas.randomness import reset_process
from nas.record import TrialRecord, scan_records, write_atomically
from nas.run_lock import RunLock
from nas.seeds import keyed_seed
from nas.selection import choose
from nas.sources import open_source
from nas.team import Team, joined, team_of
from nas.train import NonFiniteLoss, Stopped, train
from nas.train_config import RetrainConfig, recipe_names
from nas.training_log import TrainingLog

FULL = (errno.ENOSPC, errno.EDQUOT)
DEFAULT_EXPERIMENT = Path(__file__).parent.parent / "search_spaces" / "imagenet.yaml"


class RetrainError(UserError):
    """An architecture or a retraining that is not there, or is there already."""


class RetrainFailed(RuntimeError):
    """A retraining that began, and could not be brought to its end; the message says why."""


@dataclass(frozen=True)
class Job:
    """One retraining as plain data, which its processes read from job.json in its folder."""

    folder: str
    key: str
    genotype: dict[str, Any]
    config: dict[str, Any]
    seed: int
    data_dir: str | None
    cache_dir: str
    num_workers: int
    num_threads: int
    proxy_top1: float | None = None

    def write(self) -> None:
        write_atomically(Path(self.folder) / "job.json", json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(folder: Path) -> Job:
        return Job(**json.loads((folder / "job.json").read_text()))


def run_retrain(
    run_dir: Path,
    key: str,
    data_dir: Path | None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    *,
    recipe: str | None = None,
    num_processes: int = 1,
    genotype: Genotype | None = None,
) -> dict[str, Any]:
    """Train the architecture `key` of a run as its file's `retrain` section says, on images in `data_dir`.

    `recipe` replaces that section, `overrides` come on top. A `genotype` is trained instead of one of the run. With
    several processes, each has a device of its own; one that dies is replaced. Where a launcher such as torchrun
    started this process as one of many, it does its part.

    Writes to retrain/<key>/ in the run: metrics.csv (a row per epoch), model.safetensors and config.json at the end,
    best/ with the best epochs, checkpoints in between, from which `resume` goes on exactly. Returns a summary with the
    files' places. Raises RetrainError for an unknown key, an existing retraining or one with other settings,
    image_cache.DataError for missing images, run_lock.Locked while another process retrains the architecture,
    RetrainFailed for what ends a training that began, train.Stopped after a SIGTERM.
    """
    team = team_of(os.environ)
    job = plan_job(run_dir, key, data_dir, overrides, recipe=recipe, num_processes=num_processes, genotype=genotype)
    folder = Path(job.folder)
    if folder.exists() and not resume and team.leads:
        raise RetrainError(f"{folder} exists; go on with --resume, or move it away to train anew")
    if num_processes > 1 and team.world == 1:
        return _supervised(job, num_processes)
    with stop_flag() as stop:
        return carry_out(job, team, stop)


def retrain_front(
    run_dir: Path,
    count: int,
    data_dir: Path | None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    *,
    recipe: str | None = None,
    num_processes: int = 1,
) -> list[dict[str, Any]]:
    """Retrain `count` diverse front members and two controls, one after the other; returns their summaries.

    What was chosen stands in retrain/selection.json, so that `resume` goes on with the same. Raises what `run_retrain`
    raises; what is finished stays.
    """
    path = run_dir / "retrain" / "selection.json"
    if path.exists() and not resume:
        raise RetrainError(f"{path} exists; go on with --resume, or move it away to choose anew")
    if not path.exists():
        objectives = configuration.load(run_dir / "resolved.yaml").objectives
        chosen = {role: record.key for role, record in choose(run_dir, objectives, count).items()}
        plan_job(run_dir, chosen["front-1"], data_dir, overrides, recipe=recipe, num_processes=num_processes)
        write_atomically(path, json.dumps(chosen, indent=1))
    summaries = []
    for role, key in json.loads(path.read_text()).items():
        described = run_dir / "retrain" / key / "config.json"
        if not described.exists():
            print(f"{role}: {key}", file=sys.stderr, flush=True)
            run_retrain(run_dir, key, data_dir, overrides, True, recipe=recipe, num_processes=num_processes)
        found = json.loads(described.read_text())
        summaries.append({"role": role} | {name: found[name] for name in ("key", "top1", "best_top1", "proxy_top1")})
    return summaries


def plan_job(
    run_dir: Path,
    key: str,
    data_dir: Path | None,
    overrides: Iterable[str] = (),
    *,
    recipe: str | None = None,
    num_processes: int = 1,
    genotype: Genotype | None = None,
) -> Job:
    """What is to be trained, how and where; nothing is written. Raises RetrainError and ConfigError."""
    record = None if genotype else find_record(run_dir, key)
    found = genotype or Genotype.from_dict(record.genotype if record else {})
    config = retrain_config(run_dir, overrides, recipe)
    if data_dir is None and config.dataset == "imagefolder":
        raise RetrainError("--data: missing; retrain.dataset is imagefolder, which needs a folder of images")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    mine = max(1, cpus // num_processes)
    on_gpu = torch.cuda.is_available()
    if on_gpu and num_processes > torch.cuda.device_count():
        raise RetrainError(f"--devices {num_processes}: there are {torch.cuda.device_count()} GPUs")
    num_workers = (min(mine, 12) if on_gpu else int(mine > 1)) if config.dataset == "imagefolder" else 0
    seed = config.seed if config.seed is not None else keyed_seed(record.seed if record else 0, "retrain")
    return Job(
        folder=str(run_dir / "retrain" / found.key),
        key=found.key,
        genotype=found.to_dict(),
        config=config.model_dump(mode="json"),
        seed=seed,
        data_dir=None if data_dir is None else str(data_dir),
        cache_dir=str(run_dir / "cache"),
        num_workers=num_workers,
        num_threads=max(1, mine - (0 if on_gpu else num_workers)),
        proxy_top1=record.objectives.get("top1") if record else None,
    )


def retrain_config(run_dir: Path, overrides: Iterable[str] = (), recipe: str | None = None) -> RetrainConfig:
    """The retrain section of a run (of search_spaces/imagenet.yaml where there is none), or a recipe, with overrides.

    Raises ConfigError, and RetrainError for an unknown recipe.
    """
    file = run_dir / "resolved.yaml"
    file = file if file.exists() else DEFAULT_EXPERIMENT
    overrides = list(overrides)
    if recipe is not None:
        if recipe not in recipe_names():
            raise RetrainError(f"--recipe {recipe!r}: allowed are {', '.join(recipe_names())}")
        dataset = configuration.load(file).retrain.dataset
        overrides = [f"retrain={{recipe: {recipe}, dataset: {dataset}}}", *overrides]
    return configuration.load(file, overrides).retrain


def num_devices() -> int:
    """The GPUs of this host, or one process where there is none."""
    return max(torch.cuda.device_count(), 1)


def carry_out(job: Job, team: Team, stop: Any = None) -> dict[str, Any]:
    """Train as one process of a team; the leading one writes. Returns a summary."""
    folder = Path(job.folder)
    config = RetrainConfig.model_validate(job.config)
    device = torch.device("cuda", team.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif config.batch_norm == "sync" and team.world > 1:
        raise RetrainError("retrain.batch_norm: sync needs GPUs; reduce works everywhere")
    parts = -(-config.batch_size // team.world)
    parts = -(-parts // (config.device_batch_size or parts))
    source = open_source(
        config,
        seed=job.seed,
        device=device,
        cache_dir=Path(job.cache_dir),
        data_dir=None if job.data_dir is None else Path(job.data_dir),
        num_workers=job.num_workers,
        share=Share(team.rank, team.world, parts),
    )
    reset_process(job.seed, num_threads=job.num_threads)
    model = build_model(Genotype.from_dict(job.genotype), source.num_classes, source.in_channels, config.drop_path)
    settings = job.config | {"seed": job.seed, "images": source.fingerprint}
    lock = RunLock(folder / "lock") if team.leads else RunLock(folder / f"lock-{team.rank}")
    with lock, joined(team, device):
        if team.leads:
            _check_settings(folder / "settings.json", settings)
        log = TrainingLog(folder, job.key, config, source.steps_per_epoch, source.num_train) if team.leads else None
        engine = Engine(
            team=team,
            sync_batch_norm=config.batch_norm == "sync",
            compile=config.compile,
            recompute=config.recompute,
            teacher=None if config.teacher is None else _teacher(config.teacher, source.num_classes, device),
            distillation=config.distillation,
            distillation_temperature=config.distillation_temperature,
            forgiving=True,
            stop=stop,
            on_step=log.step if log else None,
            on_epoch=_Keeper(folder / "best", config.keep_best),
        )
        rows = []
        try:
            for row in train(
                model,
                source,
                config,
                seed=job.seed,
                device=device,
                checkpoint_dir=folder / "checkpoints",
                key=job.key,
                engine=engine,
            ):
                rows.append(row)
                if log:
                    log.row(row)
        except torch.OutOfMemoryError:
            per_device = config.device_batch_size or -(-config.batch_size // team.world)
            raise RetrainError(
                f"retrain.batch_size: {per_device} images at once need more memory than {device} has; "
                f"--set retrain.device_batch_size={max(per_device // 2, 1)} accumulates them in parts"
            ) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RetrainFailed(f"{folder}: no space left; what was saved is whole, go on with --resume") from None
        finally:
            if log:
                log.close()
        return _conclude(job, config, source, model, rows) if team.leads else {}


def find_record(run_dir: Path, key: str) -> TrialRecord:
    """The complete trial of a run whose key begins with `key`; raises RetrainError where there is not exactly one."""
    records, _ = scan_records(run_dir)
    complete = {record.key: record for record in records if record.state == "complete"}
    found = [record for name, record in complete.items() if name.startswith(key)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(record.key for record in found) or ", ".join(list(complete)[:8]) or "none"
    what = "fits several architectures" if found else "is no finished architecture"
    raise RetrainError(f"--key {key!r} {what} of {run_dir.name}; {'they are' if found else 'there are'} {names}")


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


def save_weights(model: nn.Module, path: Path) -> None:
    """The state dict as a safetensors file that is whole or absent."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, partial)
    partial.replace(path)


def _conclude(job: Job, config: RetrainConfig, source: Any, model: nn.Module, rows: list[dict]) -> dict[str, Any]:
    """Write weights and description; returns the summary."""
    folder = Path(job.folder)
    save_weights(model, folder / "model.safetensors")
    best = max(rows, key=lambda row: row["top1"])
    summary = {
        "key": job.key,
        "top1": rows[-1]["top1"],
        "top5": rows[-1]["top5"],
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
        "weights": str(folder / "model.safetensors"),
    }
    bad = sorted(getattr(source, "bad_images", ()))
    if bad:
        write_atomically(folder / "bad_images.txt", "\n".join(bad) + "\n")
        summary["bad_images"] = len(bad)
    described = summary | {
        "class_names": list(source.class_names),
        "genotype": job.genotype,
        "training": job.config | {"seed": job.seed},
    }
    write_atomically(folder / "config.json", json.dumps(described, indent=1))
    return summary


def _supervised(job: Job, num_processes: int) -> dict[str, Any]:
    """Run the job in processes of this host; raises what they ended with."""
    folder = Path(job.folder)
    job.write()
    result = folder / "result.json"
    for outdated in (result, folder / "error.txt"):
        outdated.unlink(missing_ok=True)
    code = supervise(
        [sys.executable, "-m", "nas.retrain", str(folder)],
        num_processes,
        progress=lambda: max((path.name for path in (folder / "checkpoints").glob("*.json")), default=""),
        say=lambda text: print(f"nas: {text}", file=sys.stderr, flush=True),
    )
    if code == 0:
        return json.loads(result.read_text())
    error = folder / "error.txt"
    told = code in (USAGE, DIVERGED, FAILED, INTERRUPTED) and error.exists()
    reason = error.read_text() if told else "its processes died again and again; their messages stand above"
    raise {USAGE: RetrainError, DIVERGED: NonFiniteLoss, INTERRUPTED: Stopped}.get(code, RetrainFailed)(reason)


def _teacher(name: str, num_classes: int, device: torch.device) -> nn.Module:
    import timm

    try:
        source = f"local-dir:{name}" if Path(name).is_dir() else name
        teacher = timm.create_model(source, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise RetrainError(f"retrain.teacher: {name!r} cannot be loaded: {error}") from None
    found = getattr(teacher, "num_classes", num_classes)
    if found != num_classes:
        raise RetrainError(f"retrain.teacher: {name!r} knows {found} classes, the images have {num_classes}")
    return teacher.to(device).eval().requires_grad_(False)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write down what a training is of; raises RetrainError where one with other settings is to go on."""
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=1))
        return
    before = json.loads(path.read_text())
    changed = [
        f"{name}: {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value
    ]
    if changed:
        raise RetrainError(f"--resume: {path.parent} was begun with other settings: {'; '.join(changed)}")


def main() -> None:
    """One process of a supervised job: `python -m nas.retrain FOLDER`."""
    die_with_parent()
    folder, team = Path(sys.argv[1]), team_of(os.environ)
    code, reason = FAILED, ""
    try:
        with stop_flag() as stop:
            summary = carry_out(Job.read(folder), team, stop)
        if team.leads:
            write_atomically(folder / "result.json", json.dumps(summary))
        code = 0
    except UserError as error:
        code, reason = USAGE, str(error)
    except NonFiniteLoss as error:
        code, reason = DIVERGED, str(error)
    except RetrainFailed as error:
        code, reason = FAILED, str(error)
    except Stopped as error:
        code, reason = INTERRUPTED, str(error)
    if reason:
        write_atomically(folder / "error.txt", reason)
    sys.stderr.flush()
    os._exit(code)  # all is written; taking the interpreter down takes seconds


if __name__ == "__main__":
    main()
