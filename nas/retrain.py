"""run_retrain: a found architecture trained at length with the one loop, its metrics and weights written."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nas import config as configuration
from nas.errors import UserError
from nas.genotype import Genotype
from nas.model import build_model
from nas.record import TrialRecord, scan_records, write_atomically
from nas.run_lock import RunLock
from nas.seeds import keyed_seed, reset_process
from nas.sources import open_source
from nas.train import train


class RetrainError(UserError):
    """An architecture or a retraining that is not there, or is there already."""


def run_retrain(
    run_dir: Path, key: str, data_dir: Path | None, overrides: Iterable[str] = (), resume: bool = False
) -> dict[str, Any]:
    """Train the architecture `key` of a run as its file's `retrain` section says, on images in `data_dir`.

    Writes to retrain/<key>/ in the run: metrics.csv (a row per epoch), model.safetensors and config.json at the end,
    checkpoints in between, from which `resume` goes on exactly. Returns a summary with the files' places.
    Raises RetrainError for an unknown key, an existing retraining or one with other settings, image_cache.DataError for
    missing images, run_lock.Locked while another process retrains the architecture.
    """
    record = find_record(run_dir, key)
    config = configuration.load(run_dir / "resolved.yaml", overrides).retrain
    if data_dir is None and config.dataset == "imagefolder":
        raise RetrainError("--data: missing; retrain.dataset is imagefolder, which needs a folder of images")
    folder = run_dir / "retrain" / record.key
    if folder.exists() and not resume:
        raise RetrainError(f"{folder} exists; go on with --resume, or move it away to train anew")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cpus = os.cpu_count() or 1
    num_workers = (min(cpus, 8) if device.type == "cuda" else int(cpus > 1)) if data_dir is not None else 0
    seed = config.seed if config.seed is not None else keyed_seed(record.seed, "retrain")
    source = open_source(
        config, seed=seed, device=device, cache_dir=run_dir / "cache", data_dir=data_dir, num_workers=num_workers
    )
    genotype = Genotype.from_dict(record.genotype)
    reset_process(seed, num_threads=max(1, cpus - num_workers))
    model = build_model(genotype, source.num_classes, source.in_channels, config.drop_path)
    rows: list[dict[str, float]] = []
    settings = config.model_dump(mode="json") | {"seed": seed, "images": source.fingerprint}
    with RunLock(folder / "lock"):
        _check_settings(folder / "settings.json", settings)
        training = train(
            model, source, config, seed=seed, device=device, checkpoint_dir=folder / "checkpoints", key=record.key
        )
        for row in training:
            rows.append(row)
            write_atomically(folder / "metrics.csv", _csv(rows))
            print(
                f"epoch {row['epoch']}/{config.epochs}  loss {row['train_loss']:.4f}  top1 {row['top1']:.4f}  "
                f"{row['images_per_second']:.0f} images/s",
                file=sys.stderr,
                flush=True,
            )
        weights = folder / "model.safetensors"
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, weights)
        summary = {
            "key": record.key,
            "top1": rows[-1]["top1"],
            "best_top1": max(row["top1"] for row in rows),
            "proxy_top1": record.objectives.get("top1"),
            "epochs": len(rows),
            "num_classes": source.num_classes,
            "in_channels": source.in_channels,
            "resolution": config.resolution,
            "weights": str(weights),
        }
        described = summary | {"genotype": record.genotype, "training": config.model_dump(mode="json")}
        write_atomically(folder / "config.json", json.dumps(described, indent=1))
    return summary


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


def _csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
