"""Retrainings under SIGKILL, for the test and for the campaign: networks, images, one life of a training, its end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from helpers import processes
from nas.retrain.job import Job, plan_job
from nas.retrain.worker import train_worker
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.checkpoint import load_checkpoint
from nas.training.process_group import ProcessGroup

OPERATORS: dict[str, Any] = {
    "conv": specs.Conv(),
    "involution": specs.Involution(kernel_size=3),
    "odconv": specs.ODConv(),
    "scconv": specs.SCConv(pooling=2),
    "gnconv": specs.GnConv(order=3),
}
EVERYTHING = {  # all that draws random numbers or keeps a state
    "augment": "imagenet",
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "drop_path": 0.1,
    "label_smoothing": 0.1,
    "ema": 0.99,
    "temperature_epochs": 2,
}


def kills(folder: Path, count: int, epochs: int = 16) -> dict[str, Any]:
    """SIGKILL one training at random moments, each life with another number of loader workers, then let it end; returns
    which parts of its end are those of an undisturbed one. All lives together get to its second half at most."""
    images = write_digits(folder / "images", per_class=24, side=32)
    settings = {"dataset": "imagefolder", "epochs": epochs, "batch_size": 16, "resolution": 16, **EVERYTHING}
    job = replace(planned(folder / "killed", mixed_network(), settings, images), num_threads=1)
    whole = replace(job, folder=str(folder / "whole"))
    processes.finish(processes.start(live, whole, 0, 1.0, daemon=False), 60 * epochs)
    undisturbed = json.loads((folder / "whole/config.json").read_text())["seconds"]
    seconds = undisturbed / count / 2
    draw, checkpoints, struck, killed = random.Random(0), Path(job.folder) / "checkpoints", [], 0
    while killed < count:
        workers = killed % 3
        life = processes.start(live, job, workers, seconds / 4, daemon=False)
        before = newest(checkpoints)
        while newest(checkpoints) == before and life.is_alive():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, seconds))
        if not life.is_alive():
            break
        processes.kill(life)
        killed += 1
        saved = load_checkpoint(checkpoints)
        assert saved is not None
        struck.append([saved["progress"]["epoch"] + 1, saved["progress"]["step"]])
    processes.finish(processes.start(live, job, 1, seconds / 4, daemon=False), 60 * epochs)
    ends = {name: parts(Path(ended.folder)) for name, ended in (("killed", job), ("undisturbed", whole))}
    return {
        "kills": killed,
        "loader_workers": [number % 3 for number in range(killed)] + [1],
        "last_checkpoint_at": struck,
        "undisturbed_s": undisturbed,
        "equal": {name: ends["killed"][name] == value for name, value in ends["undisturbed"].items()},
        "sha256": ends["killed"],
    }


def mixed_network(width: int = 16) -> Genotype:
    """All five operators, one block each."""
    blocks = [specs.Basic(width=width, operator=OPERATORS[name]) for name in ("conv", "odconv", "involution", "scconv")]
    gated = specs.Gated(width=width, operator=OPERATORS["gnconv"], layer_scale=1.0, stride=2)
    strided = replace(blocks[2], stride=2)
    return Genotype(stem=specs.Stem(kind="small", width=width), stages=((*blocks[:2], strided, blocks[3]), (gated,)))


def write_digits(folder: Path, per_class: int, side: int) -> Path:
    """Real handwritten digits as a folder of images: train/ and val/, a class each, a sixth of them in val/."""
    from PIL import Image
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    counts = dict.fromkeys(range(10), 0)
    for value, label in zip(values, labels, strict=True):
        if counts[label] < per_class:
            part = "val" if counts[label] % 6 == 5 else "train"
            path = folder / part / str(label) / f"{counts[label]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((value.reshape(8, 8) * 15.9375).astype("uint8"))
            grey.resize((side, side)).convert("RGB").save(path)
            counts[label] += 1
    return folder


def planned(folder: Path, genotype: Genotype, settings: dict[str, Any], images: Path | None = None) -> Job:
    overrides = [f"retrain.{name}={value}" for name, value in settings.items()]
    return plan_job(folder, "", images, overrides, genotype=genotype)


def live(job: Job, workers: int, checkpoint_seconds: float) -> None:
    job = replace(job, num_workers=workers)
    with_silence(lambda: train_worker(job, ProcessGroup(), checkpoint_seconds=checkpoint_seconds))


def with_silence(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a training says goes nowhere: its JSON is what counts."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        return function()


def newest(checkpoints: Path) -> int:
    return max((int(path.stem) for path in checkpoints.glob("[0-9]*.json")), default=0)


def parts(folder: Path) -> dict[str, str]:
    """SHA-256 of each part of the last checkpoint: model (with its batch norms), average, optimizer, curve."""
    state = load_checkpoint(folder / "checkpoints")
    assert state is not None
    losses = [(row["train_loss"], row["val_loss"], row["top1"]) for row in state["progress"]["curve"]]
    return {name: digest(state[name]) for name in ("model", "average", "optimizer")} | {"curve": digest(losses)}


def digest(value: Any) -> str:
    found = hashlib.sha256()
    for piece in pieces(value):
        found.update(piece)
    return found.hexdigest()


def pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield repr((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes()
    elif isinstance(value, dict):
        for name in value:
            yield repr(name).encode()
            yield from pieces(value[name])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from pieces(item)
    else:
        yield repr(value).encode()
