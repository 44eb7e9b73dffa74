"""Job: all that defines one retraining, as plain data; made from a run, the options given and this host."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.base.errors import Failed, UserError
from nas.base.extensions import FOLDER, is_own, load_callable, sources, use_folder
from nas.base.files import write_atomically
from nas.base.machine import num_cpus
from nas.base.section import EMBEDDED
from nas.base.seeds import keyed_seed
from nas.config.overrides import Overrides, as_texts
from nas.config.reading import load
from nas.config.sections import RUN_NAME
from nas.config.training import RetrainConfig, recipe_names
from nas.runs.folder import shared_cache
from nas.runs.record import find_record
from nas.space.genotype import Genotype
from nas.space.training import training_of
from nas.training.loggers import check_loggers
from nas.training.optimizer import build_optimizer
from nas.training.process_group import num_local

DEFAULT_EXPERIMENT = Path(__file__).parent.parent.parent / "search_spaces" / "imagenet.yaml"


class RetrainError(UserError):
    """An architecture or a retraining that is not there, or is there already."""


class RetrainFailed(Failed):
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
    weights: str | None = None
    """A file of weights to start from."""
    code: dict[str, str] = field(default_factory=dict)
    """Files, path -> text, of modules of others that the network or the data set comes from."""

    def write(self) -> None:
        write_atomically(Path(self.folder) / "job.json", json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(folder: Path) -> Job:
        return Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))


def plan_job(
    run_dir: Path,
    key: str,
    data_dir: Path | None,
    overrides: Overrides = (),
    *,
    recipe: str | None = None,
    num_processes: int = 1,
    on_cluster: bool = False,
    genotype: Genotype | None = None,
    name: str = "",
) -> Job:
    """What is to be trained, how and where; nothing is written. Raises RetrainError and ConfigError.

    What the search chose of the network's training is kept, but for `overrides` and where a recipe is named.
    `on_cluster`: the processes may run on other hosts, which are taken to be like this one. `name` tells several
    trainings of a network apart.
    """
    if name and not RUN_NAME.match(name):
        raise RetrainError(
            f"--name {name!r}: allowed are up to 64 letters, digits, '.', '_' and '-', the first no sign"
        )
    record = None if genotype else find_record(run_dir, key, ("complete",))
    found = genotype or Genotype.from_dict(record.genotype if record else {})
    if found.dense is not None:
        raise RetrainError(f"--key {key or found.key}: is a {found.dense.kind}; no detector is retrained yet")
    training = training_of(record.params) if record and recipe is None else {}
    chosen = [f"retrain.{name}={json.dumps(value)}" for name, value in training.items()]
    config = retrain_config(run_dir, [*chosen, *as_texts(overrides)], recipe, on_folder=data_dir is not None)
    check_loggers(config.log, "retrain.log")
    build_optimizer(nn.Linear(1, 1), config)  # refuses a name or an option that it does not have
    found, code = _with_code(run_dir, found, config)
    _check_data(config, data_dir)
    num_workers, num_threads = _cpus_of_a_process(config, num_processes, on_cluster)
    seed = config.seed if config.seed is not None else keyed_seed(record.seed if record else 0, "retrain")
    own_key = record.key if record else found.key
    return Job(
        folder=str(run_dir / "retrain" / (f"{own_key}-{name}" if name else own_key)),
        key=own_key,
        genotype=found.to_dict(),
        config=config.model_dump(mode="json"),
        seed=seed,
        data_dir=None if data_dir is None else str(data_dir),
        cache_dir=str(shared_cache(run_dir)),
        num_workers=num_workers,
        num_threads=num_threads,
        proxy_top1=record.objectives.get("top1") if record else None,
        code=code,
    )


def _cpus_of_a_process(config: RetrainConfig, num_processes: int, on_cluster: bool) -> tuple[int, int]:
    """Processes that read images for one that trains, and its threads. Raises RetrainError for too few GPUs."""
    on_gpu = torch.cuda.is_available()
    num_here = min(num_processes, torch.cuda.device_count()) if on_gpu and on_cluster else num_processes
    if on_gpu and num_here > torch.cuda.device_count():
        raise RetrainError(f"--devices {num_processes}: there are {torch.cuda.device_count()} GPUs")
    mine = max(1, num_cpus() // num_here)
    num_workers = config.num_workers
    if num_workers is None:
        num_workers = (min(mine, 12) if on_gpu else int(mine > 1)) if config.dataset == "imagefolder" else 0
    return num_workers, max(1, mine - (0 if on_gpu else num_workers))


def _check_data(config: RetrainConfig, data_dir: Path | None) -> None:
    """Raise RetrainError where a folder of images is missing, or nobody would read it."""
    if data_dir is None and config.dataset == "imagefolder":
        raise RetrainError("--data: missing; retrain.dataset is imagefolder, which needs a folder of images")
    if data_dir is not None and config.dataset in EMBEDDED:
        raise RetrainError(
            f"--data {data_dir}: not used; retrain.dataset is {config.dataset}, which comes with scikit-learn. For a "
            "folder of images say --recipe NAME, or --set retrain.dataset=imagefolder --set retrain.resolution=224"
        )


def _with_code(run_dir: Path, genotype: Genotype, config: RetrainConfig) -> tuple[Genotype, dict[str, str]]:
    """The network with what others made of it imported, and the files that it and its data set come from.

    Raises ExtensionError.
    """
    data = [config.dataset] if is_own(config.dataset) else []
    if not (data or genotype.own_operators() or genotype.own_blocks()):
        return genotype, {}
    if (run_dir / FOLDER).is_dir():
        use_folder(run_dir)
    for name in data:
        load_callable(name, ["request"])
    genotype = genotype.loaded()
    return genotype, sources([*data, *genotype.own_operators(), *genotype.own_blocks()])


def retrain_config(
    run_dir: Path, overrides: Overrides = (), recipe: str | None = None, on_folder: bool = False
) -> RetrainConfig:
    """The retrain section of a run (of search_spaces/imagenet.yaml where there is none), or a recipe, with overrides.

    A recipe trains on the data set of the section; `on_folder`: on images of a folder where that set needs none.
    Raises ConfigError, and RetrainError for an unknown recipe.
    """
    file = run_dir / "resolved.yaml"
    file = file if file.exists() else DEFAULT_EXPERIMENT
    overrides = as_texts(overrides)
    if recipe is not None:
        if recipe not in recipe_names():
            raise RetrainError(f"--recipe {recipe!r}: allowed are {', '.join(recipe_names())}")
        dataset = load(file).retrain.dataset
        dataset = "imagefolder" if on_folder and dataset in EMBEDDED else dataset
        overrides = [f"retrain={{recipe: {recipe}, dataset: {dataset}}}", *overrides]
    return load(file, overrides).retrain


def num_devices() -> int:
    """The processes that share this host: those that a launcher started here, else one per GPU, at least one."""
    return num_local(os.environ) or max(torch.cuda.device_count(), 1)
