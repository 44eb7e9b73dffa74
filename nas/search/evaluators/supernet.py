"""The evaluator `supernet`: a network with the weights that it inherits from one training of all networks."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from nas.base.locks import byte_lock
from nas.config.evaluators import EvaluatorConfig
from nas.config.sections import ExperimentConfig, ProxyConfig
from nas.data.batches import MemorySource
from nas.networks.precision import training_dtype
from nas.networks.shared.supernet import NotShared, Supernet
from nas.runs.folder import SUPERNET
from nas.search.evaluators.context import Candidate, Judging, TrialContext
from nas.space.search_space import SearchSpace
from nas.training.loop import Row, measure_score
from nas.training.process_state import reset_process
from nas.training.result import DESCRIPTION
from nas.training.supernet import inheriting, read_supernet, train_supernet, write_supernet

TRIED = 50
"""Random networks of a space that are laid into a supernet before a search."""
WAITING_SECONDS = 7 * 86400.0
"""For another process that trains the same supernet."""


def judge(candidate: Candidate) -> Judging:
    """top1 with inherited weights; NaN for a network that is not of the space. No rows."""
    yield from ()
    context, stage = candidate.context, candidate.stage
    net = context.kept.get(stage.name)
    if net is None:
        for _ in trained(stage, context):
            pass
        net = context.kept[stage.name] = load(context)
    proxy, dataset = training_of(stage, context.config.proxy), context.dataset()
    source = MemorySource(dataset, proxy, seed=context.config.search.seed, device=context.device)
    reset_process(candidate.seed, num_threads=context.num_threads)
    dtype = training_dtype(proxy.amp, context.device)
    with context.training():
        try:
            model = inheriting(net, candidate.genotype, source, context.device, dtype)
        except NotShared:
            return math.nan
    return measure_score(model, source, dtype, context.training).top1


def check(stage: EvaluatorConfig, config: ExperimentConfig, space: SearchSpace) -> None:
    """Raise ValueError for a space whose networks do not share shapes, and for a distillation from other images.

    The networks are laid out without their weights.
    """
    proxy = config.proxy.chosen({})
    if stage.distillation and (proxy.mixup or proxy.cutmix):
        raise ValueError(
            f"evaluator: distillation = {stage.distillation}: with proxy.mixup or cutmix each network of a step has "
            "images of its own, so that one cannot learn from another; write 0 for one of them"
        )
    with torch.device("meta"):
        try:
            net = Supernet(space, 10, 3)
            draw = random.Random(config.search.seed)
            for _ in range(TRIED):
                net.inherited(space.decode({name: draw.choice(values) for name, values in space.choices().items()}))
        except ValueError as error:
            raise ValueError(f"evaluator: the networks of this space cannot share weights: {error}") from None


def training_of(stage: EvaluatorConfig, proxy: ProxyConfig) -> ProxyConfig:
    """As `proxy` says, with the first of what it lists, for more epochs."""
    return proxy.chosen({}).model_copy(update={"epochs": stage.supernet_epochs(proxy.epochs)})


def trained(stage: EvaluatorConfig, context: TrialContext) -> Iterator[Row]:
    """Train the supernet of a run, or go on with it, in its folder; a row per epoch; nothing where it is trained.

    Of several processes one trains, and the others wait for it.
    """
    folder, proxy, seed = (
        context.run_dir / SUPERNET,
        training_of(stage, context.config.proxy),
        context.config.search.seed,
    )
    with byte_lock(context.run_dir / "locks" / SUPERNET, 0, WAITING_SECONDS, "the supernet"):
        if context.store is not None and not folder.exists():
            context.store.fetch(SUPERNET, folder)
        if (folder / DESCRIPTION).exists():
            return
        net = made(stage, context)
        source = MemorySource(context.dataset(), proxy, seed=seed, device=context.device)
        send = None if context.store is None else partial(context.store.send, folder, SUPERNET)
        curve = []
        for row in train_supernet(
            net,
            source,
            proxy,
            stage.distillation_share,
            seed=seed,
            device=context.device,
            checkpoint_dir=folder / "training",
            key=f"{SUPERNET} {context.config.space.model_dump_json()}",
            device_lock=context.training,
            save_now=context.save_now,
            on_save=send,
        ):
            curve.append(row)
            yield row
        write_supernet(folder, net, source, _described(net, proxy, curve))
        shutil.rmtree(folder / "training", ignore_errors=True)
        if send is not None:
            send()


def load(context: TrialContext) -> Supernet:
    """The trained supernet of a run, on the device."""
    return read_supernet(context.run_dir / SUPERNET, SearchSpace(context.config.space)).to(context.device).eval()


def made(stage: EvaluatorConfig, context: TrialContext) -> Supernet:
    """A fresh one, on the CPU."""
    config, dataset = context.config, context.dataset()
    reset_process(config.search.seed, num_threads=context.num_threads)
    sizes = (dataset.num_classes, dataset.in_channels, stage.num_paths, config.search.seed)
    return Supernet(SearchSpace(config.space), *sizes)


def _described(net: Supernet, proxy: ProxyConfig, curve: list[Row]) -> dict[str, Any]:
    """What its training took, and how it was done."""
    return {
        "epochs": len(curve),
        "seconds": sum(row["seconds"] for row in curve),
        "num_params": sum(parameter.numel() for parameter in net.parameters()),
        "curve": curve,
        "training": proxy.model_dump(mode="json"),
    }
