"""What a search would do, without doing it: its images, what its networks cost, how long it would take here."""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.base.machine import num_cpus
from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import FREE_COSTS, Bound, ExperimentConfig, ProxyConfig
from nas.data.datasets import ImageDataset, Images
from nas.data.images.image_cache import FolderListing
from nas.data.images.parts import list_parts
from nas.data.sources import ProxyDataset, load_proxy, proxy_source
from nas.measure.latency import device_name
from nas.networks.task import build_network
from nas.runs.noise.replicates import most_replicates
from nas.search.evaluators.context import Candidate, TrialContext
from nas.search.evaluators.registry import find_evaluator
from nas.search.evaluators.supernet import made, training_of
from nas.search.surrogate.known_costs import KnownCosts
from nas.space.search_space import SearchSpace
from nas.training.engine import Engine, Stepper
from nas.training.loop import measure_score
from nas.training.supernet import SeveralPaths
from nas.training.tasks import TASKS

SAMPLES = 1000
CIFAR = {"cifar10": 10, "cifar100": 100}
WARM_STEPS, STEPS, MOST_SECONDS = 1, 10, 10.0


def forecast(config: ExperimentConfig, space: SearchSpace) -> dict[str, Any]:
    """Images, classes, costs of a thousand random networks, and how long the search would take on this machine.

    `share_within` is the part of the networks that the limits of free costs keep, `costs` has the smallest and largest
    values of all. The time is that of some steps and an evaluation with a network of middle size, for all epochs of all
    trainings and of the replicates that come by default, that of scores, and of what comes before; early stopping, what
    sampling and measuring take, and a cluster are not in it. Nothing is downloaded, and nothing stays on disk. Raises
    DataError.
    """
    dataset = _dataset(config)
    counts = _sampled(config, space, dataset)
    within = [found for found in counts if _within(config.constraints, found)]
    middle = sorted(within or counts, key=lambda found: found["num_macs"])[len(within or counts) // 2]
    device = torch.device("cuda" if config.resources.gpus_per_trial else "cpu")
    params, places, last = middle["params"], _places(config), config.evaluators[-1]
    each = _epoch_seconds(config, space, dataset, params, device) if config.trains else None
    counts_judged = num_judged(config)
    scoring = {
        stage.label: (counts_judged[stage.name], _scoring_seconds(config, space, dataset, params, device, stage))
        for stage in config.evaluators
        if stage.name != "train"
    }
    before = {
        stage.label: _before_seconds(config, dataset, device, stage)
        for stage in config.evaluators
        if find_evaluator(stage.name).prepare is not None
    }
    seconds = sum(-(-count // places) * one for count, one in scoring.values()) + sum(before.values())
    if each is not None:
        seconds += each * config.proxy.epochs * -(-(counts_judged[last.name] + most_replicates(config)) // places)
    return {
        "num_train": len(dataset.train),
        "num_validation": len(dataset.validation),
        "num_classes": dataset.num_classes,
        "share_within": len(within) / len(counts),
        "costs": {name: (min(c[name] for c in counts), max(c[name] for c in counts)) for name in FREE_COSTS},
        "device": device_name(device),
        "places": places,
        "epoch_seconds": each,
        "before": before,
        "scoring": {label: {"networks": count, "seconds_each": one} for label, (count, one) in scoring.items()},
        "hours": seconds / 3600,
    }


def num_judged(config: ExperimentConfig) -> dict[str, int]:
    """Evaluator -> about how many networks it judges, for as many trainings as are asked for: where a filter rejects
    nothing before its first trainings, and then all but the share that it keeps."""
    found, wanted = {}, config.search.num_trials
    for stage in reversed(config.evaluators):
        if found:
            first = min(wanted, stage.num_trained_first)
            wanted = first + round((wanted - first) / stage.share_kept)
        found[stage.name] = wanted
    return found


def to_text(found: Mapping[str, Any], config: ExperimentConfig) -> str:
    """A forecast as lines under those of the plan."""
    costs = ", ".join(f"{name} {_short(low)} to {_short(high)}" for name, (low, high) in found["costs"].items())
    limits = [name for name in config.constraints if name in FREE_COSTS]
    within = f", {100 * found['share_within']:.3g} % within {', '.join(limits)}" if limits else ""
    if limits and not found["share_within"]:
        within += ": a search may find nothing to train"
    hours = found["hours"]
    count = config.num_measured_first
    before = f"; before, the costs of {count} networks are measured" if count else ""
    epoch = ""
    if found["epoch_seconds"] is not None:
        epoch = f", {found['epoch_seconds']:.2g} s per epoch of a network of middle size"
    took = f"{hours:.1f} h" if hours >= 2 else f"{_minutes(3600 * hours)} min"
    return "\n".join(
        [
            f"images      {found['num_train']:,} to train with, {found['num_validation']:,} to validate, "
            f"{found['num_classes']:,} classes",
            f"networks    of {SAMPLES:,} random ones: {costs}{within}",
            *(f"before      {label}: about {_minutes(took)} min" for label, took in found["before"].items()),
            *(
                f"scores      {label}: about {one['networks']:,} networks, {one['seconds_each']:.2g} s each"
                for label, one in found["scoring"].items()
            ),
            f"time        about {took} on {found['device']}, {found['places']} at once{epoch}{before}",
        ]
    )


def _minutes(seconds: float) -> str:
    return f"{max(1, seconds / 60):.0f}"


def _dataset(config: ExperimentConfig) -> ProxyDataset:
    """The data set; where reading it would take long, one of the same sizes whose pixels are noise."""
    proxy, seed = config.proxy, config.search.seed
    if proxy.dataset in CIFAR:
        labels = [label for label in range(CIFAR[proxy.dataset]) for _ in range(50_000 // CIFAR[proxy.dataset])]
    elif proxy.dataset == "imagefolder" and proxy.data_dir:
        listing = list_parts(Path(proxy.data_dir)).training
        labels = listing.labels if isinstance(listing, FolderListing) else []
    else:
        with tempfile.TemporaryDirectory() as folder:
            return load_proxy(proxy, seed, Path(folder))
    per_class = Counter(labels)
    count = sum(min(images, proxy.max_images_per_class or images) for images in per_class.values())
    validation = round(count * proxy.validation_fraction)
    pixels = torch.randint(0, 256, (64, 3, proxy.resolution, proxy.resolution), dtype=torch.uint8)
    train, held = (
        Images(pixels, torch.arange(size) % len(pixels), torch.arange(size) % len(per_class))
        for size in (count - validation, validation)
    )
    names = tuple(map(str, range(len(per_class))))
    return ImageDataset(train, held, len(names), 3, names, (0.5,) * 3, (0.25,) * 3, "noise")


def _sampled(config: ExperimentConfig, space: SearchSpace, dataset: ProxyDataset) -> list[dict[str, Any]]:
    """The free costs of random networks, and the parameters that they were decoded from."""
    draw, choices = random.Random(config.search.seed), space.choices()
    known = KnownCosts(space, config.proxy.resolution, dataset.in_channels, dataset.num_classes)
    points = [{name: draw.choice(list(values)) for name, values in choices.items()} for _ in range(SAMPLES)]
    return [{**known(point), "params": point} for point in points]


def _within(limits: Mapping[Any, Bound], costs: Mapping[str, Any]) -> bool:
    bounds = [(costs[name], bound) for name, bound in limits.items() if name in costs]
    return all((b.max is None or value <= b.max) and (b.min is None or value >= b.min) for value, b in bounds)


def _epoch_seconds(
    config: ExperimentConfig, space: SearchSpace, dataset: ProxyDataset, params: dict[str, Any], device: torch.device
) -> float:
    """Seconds of an epoch with its evaluation, from timed steps."""
    proxy = config.proxy.chosen(params)
    shape = (dataset.num_classes, dataset.in_channels, proxy.resolution)
    model = build_network(space.decode(params), *shape, proxy.drop_path)
    source = proxy_source(dataset, proxy, seed=config.search.seed, device=device)
    return _seconds_of_epoch(model, source, proxy, config.search.seed, device)


def _before_seconds(config: ExperimentConfig, dataset: Any, device: torch.device, stage: EvaluatorConfig) -> float:
    """Seconds of what an evaluator trains before the first trial."""
    proxy, seed = training_of(stage, config.proxy), config.search.seed
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(config, Path(folder), device, torch.get_num_threads(), _datasets=[dataset])
        net = made(stage, context)
    source = SeveralPaths(proxy_source(dataset, proxy, seed=seed, device=device), net.num_paths)
    return _seconds_of_epoch(net, source, proxy, seed, device) * proxy.epochs


def _seconds_of_epoch(model: nn.Module, source: Any, proxy: ProxyConfig, seed: int, device: torch.device) -> float:
    sizes = {"shard": source.shard, "num_train": source.num_train, "steps_per_epoch": source.steps_per_epoch}
    task = TASKS[proxy.task]
    stepper = Stepper(model, proxy, Engine(task=task), seed=seed, device=device, **sizes)
    batches = itertools.chain.from_iterable(source.train_batches(epoch) for epoch in itertools.count())
    steps = _timed(lambda step: stepper.step(batches, step), device)
    score: Any = measure_score if task is None else task.score
    return steps * source.steps_per_epoch + _timed(
        lambda _: score(model, source, stepper.dtype, nullcontext, None), device, 1
    )


def _scoring_seconds(
    config: ExperimentConfig,
    space: SearchSpace,
    dataset: ProxyDataset,
    params: dict[str, Any],
    device: torch.device,
    stage: EvaluatorConfig,
) -> float:
    """Seconds that an evaluator without epochs takes for a network."""
    genotype, proxy, judge = space.decode(params), config.proxy.chosen(params), find_evaluator(stage.name).judge
    with tempfile.TemporaryDirectory() as folder:
        context = TrialContext(config, Path(folder), device, torch.get_num_threads(), _datasets=[dataset])
        if stage.name == "supernet":  # its time does not depend on what it has learned
            context.kept[stage.name] = made(stage, context).to(device).eval()
        candidate = Candidate(genotype, genotype.key, config.search.seed, stage, proxy, context, Path(folder))
        return _timed(lambda _: list(judge(candidate)), device, 2)


def _timed(call: Any, device: torch.device, most: int = STEPS) -> float:
    """Mean seconds of a call, after one to warm up."""
    begin, done = 0.0, -WARM_STEPS
    while done < most and (done < 1 or time.perf_counter() - begin < MOST_SECONDS):
        if done == 0:
            begin = time.perf_counter()
        call(done + WARM_STEPS)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
    return (time.perf_counter() - begin) / done


def _places(config: ExperimentConfig) -> int:
    """How many trials this machine has room for."""
    resources = config.resources
    fitting = int(num_cpus() / resources.cpus_per_trial)
    if resources.gpus_per_trial:
        fitting = min(fitting, int(torch.cuda.device_count() / resources.gpus_per_trial))
    return max(1, min(fitting, resources.max_concurrent or fitting))


def _short(count: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"
