"""The evaluator `train`: the short training of the section proxy, and the weights that it ends with."""

from __future__ import annotations

import shutil
from functools import partial

import torch

from nas.config.sections import RetrainConfig
from nas.config.tasks import trained_by
from nas.data.batches import MemorySource
from nas.data.scenes import SceneSource
from nas.networks.precision import DTYPES, training_dtype
from nas.runs.folder import proxy_folder
from nas.search.evaluators.context import Candidate, Judging
from nas.search.stopping.choosing import pauses
from nas.training.engine import Engine
from nas.training.loop import train
from nas.training.result import write_result
from nas.training.tasks import TASKS


def judge(candidate: Candidate) -> Judging:
    """Train; a row per epoch, and what the last says of the network. It goes on from the checkpoint that an earlier
    process left."""
    context, folder = candidate.context, candidate.folder
    model, source = candidate.model(), candidate.source()
    rows = train(
        model,
        source,
        candidate.proxy,
        seed=candidate.seed,
        device=context.device,
        checkpoint_dir=folder / "training",
        key=candidate.key,
        device_lock=context.training,
        save_at=context.rungs if pauses(context.config.search) else (),
        save_now=context.save_now,
        engine=Engine(task=TASKS[candidate.proxy.task]),
        on_save=None if context.store is None else partial(context.store.send, folder, candidate.name),
    )
    curve = []
    for row in rows:
        curve.append(row)
        yield row
    if not candidate.is_replicate:
        _keep_weights(candidate, model, source, curve)
    return curve[-1][trained_by(context.config.space)]


def _keep_weights(
    candidate: Candidate, model: torch.nn.Module, source: MemorySource | SceneSource, curve: list[dict[str, float]]
) -> None:
    """Write what the training ended with, as a retraining would; the driver removes it again if it is not on the front.

    The description has the settings that a retraining knows under their names there, and the proxy's own apart.
    """
    key, proxy, context = candidate.key, candidate.proxy, candidate.context
    given = proxy.model_dump(mode="json")
    shared = {name: value for name, value in given.items() if name in RetrainConfig.model_fields}
    figure = trained_by(context.config.space)
    training = RetrainConfig.model_validate(shared).model_dump(mode="json") if figure == "top1" else shared
    described = {
        "key": key,
        figure: curve[-1][figure],
        "dtype": {dtype: name for name, dtype in DTYPES.items()}[training_dtype(proxy.amp, context.device)],
        f"proxy_{figure}": curve[-1][figure],
        "epochs": len(curve),
        "seconds": sum(row["seconds"] for row in curve),
        "images_per_second": sum(row["images_per_second"] for row in curve) / len(curve),
        "num_classes": source.num_classes,
        "in_channels": source.in_channels,
        "resolution": proxy.resolution,
        "class_names": list(source.class_names),
        "preparation": source.preparation.to_dict(),
        "genotype": candidate.genotype.to_dict(),
        "training": training | {"seed": candidate.seed},
        "proxy": {name: value for name, value in given.items() if name not in shared},
    }
    folder = proxy_folder(context.run_dir, key)
    write_result(folder, model, described)
    if context.store is not None:
        context.store.send(folder, f"proxy/{key}")
        shutil.rmtree(folder)
