"""What the loop of a retraining costs, beside bare loops on the same model and images, alternating in one process.

Usage: bench_retrain.py overhead|checkpoint|timm [--pairs N] [--out FILE]

overhead: an epoch of `nas.training.loop.train` as `nas retrain` calls it, against zero_grad, forward, backward, clip,
step in plain PyTorch on the same batches; CPU time of this process.
checkpoint: saving everything of a ResNet-50 with SGD, and the share of the time that the loop then spends on it.
timm: images per second of an epoch without its evaluation, against the loop of timm's train.py, written out here since
timm's package does not have that script: its dataset, loader, transforms, optimizer, scheduler and loss, same flags.
Prints JSON, or writes it to FILE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from retrain_campaign import environment, mixed_network, write_digits
from torch import nn
from torch.nn import functional

from nas.config.sections import RetrainConfig
from nas.data.batches import Source
from nas.data.sources import open_source
from nas.networks.model import build_model
from nas.networks.precision import to_device
from nas.networks.published import PUBLISHED
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.engine import Engine
from nas.training.loop import evaluate, train
from nas.training.optimizer import build_optimizer

CPU = torch.device("cpu")


def overhead(folder: Path, pairs: int) -> dict[str, Any]:
    config = settings(dataset="digits", batch_size=64, resolution=16, augment="shift", clip_grad=1.0)
    source = open_source(config, seed=0, device=CPU, cache_dir=folder)
    model = build_model(mixed_network(), source.num_classes, source.in_channels)
    engine = Engine(skip_nonfinite=True, on_step=lambda *_: None, on_epoch=lambda row, networks: None)

    def bare() -> None:
        optimizer = build_optimizer(model, config)
        for images, labels in source.train_batches(0):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        evaluate(model, source)

    def looped() -> None:
        list(train(model, source, config, seed=0, device=CPU, engine=engine))

    times = alternating(bare, looped, pairs, time.process_time)
    return compared("bare_s", "loop_s", times) | {"steps": source.steps_per_epoch, "batch_size": config.batch_size}


def checkpoint(folder: Path, pairs: int) -> dict[str, Any]:
    from nas.training.checkpoint import save_checkpoint
    from nas.training.loop import CHEAP_SAVE_SECONDS

    model = to_device(build_model(PUBLISHED["resnet50"]), CPU)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    optimizer.step()
    seconds = []
    for _ in range(pairs):
        begin = time.perf_counter()
        path = save_checkpoint(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        seconds.append(time.perf_counter() - begin)
    cost = statistics.median(seconds)
    wait = 10.0 * max(1.0, cost / CHEAP_SAVE_SECONDS)
    return {
        "bytes": path.stat().st_size,
        "save_s": {"median": cost, "min": min(seconds), "max": max(seconds)},
        "seconds_between_saves": wait,
        "share_of_time": cost / (cost + wait),
    }


def timm_loop(folder: Path, pairs: int) -> dict[str, Any]:
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, dispatch_clip_grad

    images = write_digits(folder / "images", per_class=60, side=96)
    config = settings(
        batch_size=32,
        resolution=64,
        augment="imagenet",
        auto_augment="rand-m6-mstd0.5-inc1",
        interpolation="bicubic",
        label_smoothing=0.1,
        clip_grad=1.0,
        learning_rate=1e-3,
    )
    source = open_source(config, seed=0, device=CPU, cache_dir=folder, data_dir=images)
    plain = [specs.Basic(width=width, operator=specs.Conv()) for width in (64, 128)]
    stages = ((plain[0], plain[0]), (replace(plain[1], stride=2), plain[1]))
    genotype = Genotype(stem=specs.Stem(kind="resnet", width=64), stages=stages)
    model = build_model(genotype, source.num_classes, source.in_channels)
    dataset: Any = create_dataset("", root=str(images), split="train", is_training=True, batch_size=config.batch_size)
    loader: Any = create_loader(
        dataset,
        input_size=(3, config.resolution, config.resolution),
        batch_size=config.batch_size,
        is_training=True,
        auto_augment=config.auto_augment,
        color_jitter=0.0,
        interpolation="bicubic",
        num_workers=0,
        device=CPU,
        use_prefetcher=False,
        persistent_workers=False,
    )

    def theirs() -> None:
        model.train()
        optimizer = create_optimizer_v2(model, opt="adamw", lr=config.learning_rate, weight_decay=config.weight_decay)
        scheduler, _ = create_scheduler_v2(
            optimizer, sched="cosine", num_epochs=1, updates_per_epoch=len(loader), step_on_epochs=False
        )
        criterion, losses = nn.CrossEntropyLoss(label_smoothing=0.1), AverageMeter()
        optimizer.zero_grad()
        for number, (batch, labels) in enumerate(loader):
            loss = criterion(model(batch), labels)
            loss.backward()
            dispatch_clip_grad(model.parameters(), value=1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(labels))
            if scheduler:
                scheduler.step_update(num_updates=number + 1, metric=losses.avg)

    speeds: list[float] = []

    def ours() -> None:
        engine = Engine(skip_nonfinite=True, on_step=lambda *_: None, on_epoch=lambda row, networks: None)
        begin = time.process_time()

        class TrainingOnly:
            """The source without its evaluation images but one batch, which timm's epoch does not have either."""

            def __getattr__(self, name: str) -> Any:
                return getattr(source, name)

            def validation_batches(self):
                speeds.append(time.process_time() - begin)
                yield next(source.validation_batches())

        only: Source = TrainingOnly()  # type: ignore[assignment]
        list(train(model, only, config, seed=0, device=CPU, engine=engine))

    times = alternating(theirs, ours, pairs, time.process_time)
    per_image = [
        (before / (len(loader) * config.batch_size), after / source.num_train)
        for (before, _), after in zip(times, speeds[-pairs:], strict=True)
    ]
    ratios = [before / after for before, after in per_image]
    return {
        "images": source.num_train,
        "ours_over_timm": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "n": pairs},
        "images_per_cpu_second": {
            "timm": statistics.median(1 / before for before, _ in per_image),
            "ours": statistics.median(1 / after for _, after in per_image),
        },
    }


BENCHES: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "overhead": (overhead, 7),
    "checkpoint": (checkpoint, 5),
    "timm": (timm_loop, 5),
}


def settings(**changes: Any) -> RetrainConfig:
    return RetrainConfig.model_validate({"epochs": 1, "warmup_epochs": 0, "amp": "off", **changes})


def alternating(
    first: Callable[[], None], second: Callable[[], None], pairs: int, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Seconds of both, again and again, after a pair that does not count; every other pair in reverse order."""
    found = []
    for number in range(pairs + 1):
        spent = {}
        for function in (first, second) if number % 2 else (second, first):
            begin = clock()
            function()
            spent[function] = clock() - begin
        found.append((spent[first], spent[second]))
    return found[1:]


def compared(first: str, second: str, times: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [after / before for before, after in times]
    return {
        first: statistics.median(before for before, _ in times),
        second: statistics.median(after for _, after in times),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "n": len(ratios)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bench, usual = BENCHES[args.bench]
    pairs = args.pairs or usual
    before = environment()
    with tempfile.TemporaryDirectory(prefix="opnas-bench-") as folder:
        found = bench(Path(folder), pairs)
    result = {"command": f"scripts/bench_retrain.py {args.bench} --pairs {pairs}", "environment": before, "threads": 1}
    text = json.dumps(result | found, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text, file=sys.stdout)


if __name__ == "__main__":
    main()
