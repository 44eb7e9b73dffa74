"""Progress and metrics of a retraining: a bar or plain lines, metrics.csv, and other loggers where asked for."""

from __future__ import annotations

import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nas.base.files import write_atomically
from nas.config.training import RetrainConfig, resolution
from nas.data.batches import OpenedSource
from nas.networks.precision import training_dtype
from nas.training.loggers import Loggers, Row

LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 10.0
# timm's names for its summary.csv, with accuracies in percent
TIMM = {
    "epoch": ("epoch", 1),
    "train_loss": ("train_loss", 1),
    "val_loss": ("eval_loss", 1),
    "top1": ("eval_top1", 100),
    "top5": ("eval_top5", 100),
    "learning_rate": ("lr", 1),
    "raw_top1": ("eval_raw_top1", 100),
}


def opening(config: RetrainConfig, source: OpenedSource, device: torch.device, num_processes: int) -> list[str]:
    """What is about to be trained, in lines."""
    first = resolution(config, 0)
    growth = f"{first} to " if first != config.resolution else ""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = f" in {source.shard.accumulation_steps} parts" if source.shard.accumulation_steps > 1 else ""
    number_format = training_dtype(config.amp, device)
    form = "float32" if number_format is None else str(number_format)[6:]
    return [
        *(f"note: {note}" for note in source.notes),
        f"{source.num_train:,} training and {source.num_validation:,} evaluation images of {source.num_classes:,} "
        f"classes at {growth}{config.resolution} pixels",
        f"{config.num_epochs} epochs of {source.steps_per_epoch:,} steps, {config.batch_size} images each{parts}, "
        f""
        f"{config.optimizer} at {config.peak_learning_rate:g}, on {num_processes} x {where}, {form}",
        *(
            [
                f"learning rate {config.peak_learning_rate:.3g}, scaled from {config.learning_rate:g} for "
                f"{config.learning_rate_batch_size:,} images"
            ]
            if config.peak_learning_rate != config.learning_rate
            else []
        ),
    ]


def summary_text(summary: dict[str, Any]) -> str:
    """The end of a retraining as a table."""
    accuracy = f"top1 {summary['top1']:.4f}  top5 {summary['top5']:.4f}"
    if "top1_float32" in summary:
        accuracy += f"  ({summary['dtype']}; float32: top1 {summary['top1_float32']:.4f})"
    proxy = summary["proxy_top1"]
    rows = {
        "architecture": summary["key"],
        "accuracy": accuracy,
        "best epoch": f"{summary['best_epoch']:.0f}, top1 {summary['best_top1']:.4f}",
        "proxy": "none" if proxy is None else f"top1 {proxy:.4f}",
        "images": f"{summary['num_classes']} classes, {summary['in_channels']} channels, "
        f"{summary['resolution']} pixels",
        "training": f"{summary['epochs']} epochs in {tqdm.format_interval(summary['seconds'])}, "
        f"{summary['images_per_second']:.0f} images/s",
        "steps skipped": f"{summary['skipped_steps']:.0f}" if summary["skipped_steps"] else "",
        "unreadable": f"{summary['bad_images']} images, in bad_images.txt" if "bad_images" in summary else "",
        "weights": summary["weights"],
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items() if value)


def front_text(summaries: list[dict[str, Any]]) -> str:
    """The ends of several retrainings as a table."""
    lines = [f"{'role':<22}{'architecture':<14}{'top1':>8}{'best':>8}{'proxy':>8}"]
    for end in summaries:
        proxy = "none" if end["proxy_top1"] is None else f"{end['proxy_top1']:.4f}"
        lines.append(f"{end['role']:<22}{end['key']:<14}{end['top1']:>8.4f}{end['best_top1']:>8.4f}{proxy:>8}")
    return "\n".join(lines)


class TrainingLog:
    """Follows one training in the main process; `steps_per_epoch` and `num_train` are the source's.

    Rows that metrics.csv has already, of a training that goes on, are not logged elsewhere again.
    """

    def __init__(self, folder: Path, key: str, config: RetrainConfig, steps_per_epoch: int, num_train: int):
        self._folder, self._config, self._steps, self._num_train = folder, config, steps_per_epoch, num_train
        self._loggers = Loggers(config.log, "retrain.log", folder, key, config.model_dump(mode="json"))
        self._rows: list[Row] = []
        self._logged = _num_rows(folder / "metrics.csv")
        self._said, self._wait = time.monotonic(), FIRST_LINE_SECONDS
        self._bar: Any = None
        self._on_terminal = sys.stderr.isatty()

    def step(self, epoch: int, step: int, seconds: float, waited: float) -> None:
        """After each step: `step` of them are done in `epoch`, in `seconds`, `waited` of them for images."""
        if self._on_terminal:
            if self._bar is None:
                title = f"epoch {epoch + 1}/{self._config.num_epochs}"
                self._bar = tqdm(total=self._steps, initial=step, desc=title, unit="step", file=sys.stderr, leave=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._said >= self._wait:
            self._said, self._wait = time.monotonic(), LINE_SECONDS
            speed = step / self._steps * self._num_train / seconds
            left = tqdm.format_interval(self._seconds_left(epoch, step, seconds))
            self._say(
                f"epoch {epoch + 1}/{self._config.num_epochs}, step {step}/{self._steps}: {speed:.0f} images/s, "
                f"{waited / seconds:.0%} waiting for images, about {left} left"
            )

    def row(self, row: Row) -> None:
        """After each epoch; also for the finished ones of a training that goes on."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._rows.append(row)
        if len(self._rows) > self._logged:
            self._loggers.log(timm_row(row), int(row["epoch"]))
            write_atomically(self._folder / "metrics.csv", to_csv([timm_row(row) for row in self._rows]))
        left = self._seconds_left(int(row["epoch"]), 0, 0.0)
        raw = f" (raw weights {row['raw_top1']:.4f})" if "raw_top1" in row else ""
        memory = f"  {row['peak_memory_mb']:.0f} MB" if "peak_memory_mb" in row else ""
        accuracy = f"top1 {row['top1']:.4f}{raw}  " if "top1" in row else ""
        self._say(
            f"epoch {row['epoch']}/{self._config.num_epochs}  loss {row['train_loss']:.4f}  {accuracy}"
            f"{row['images_per_second']:.0f} images/s, {row['wait_share']:.0%} waiting{memory}"
            + (f"  about {tqdm.format_interval(left)} left" if left else "")
        )
        self._said = time.monotonic()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._loggers.close()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _seconds_left(self, epoch: int, step: int, seconds: float) -> float:
        """From what epochs took so far, per pixel: images may grow."""
        pixels = [resolution(self._config, number) ** 2 for number in range(self._config.num_epochs)]
        spent = sum(row["seconds"] for row in self._rows) + seconds
        done = sum(pixels[:epoch]) + pixels[min(epoch, len(pixels) - 1)] * step / self._steps
        return max(spent * (sum(pixels) / done - 1), 0.0) if done else 0.0


def timm_row(row: Row) -> Row:
    """A row with timm's names and units; what timm does not have keeps its name."""
    return {
        TIMM.get(name, (name, 1))[0]: value if name == "epoch" else value * TIMM.get(name, (name, 1))[1]
        for name, value in row.items()
    }


def to_csv(rows: list[Row]) -> str:
    """Rows as text, with nothing where one lacks what another has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(max(rows, key=len)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _num_rows(path: Path) -> int:
    return max(len(path.read_text(encoding="utf-8").splitlines()) - 1, 0) if path.exists() else 0
