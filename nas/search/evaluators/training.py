"""The evaluator `train`: the short training of the section proxy, and the weights that it ends with."""

from __future__ import annotations

import json
import shutil
from functools import partial

import torch
from safetensors.torch import load_file

from nas.base.files import write_atomically
from nas.config.sections import RetrainConfig
from nas.config.tasks import trained_by
from nas.data.batches import MemorySource
from nas.data.scenes import SceneSource
from nas.networks.precision import DTYPES, training_dtype
from nas.networks.shared.transfer import inherit
from nas.runs.folder import proxy_folder
from nas.search.evaluators.context import Candidate, Judging
from nas.search.stopping.choosing import pauses
from nas.space.genotype import Genotype
from nas.training.engine import Engine
from nas.training.loop import train
from nas.training.result import DESCRIPTION, WEIGHTS, save_weights, write_result
from nas.training.tasks import TASKS


def judge(candidate: Candidate) -> Judging:
    """Train; a row per epoch, and what the last says of the network. It goes on from the checkpoint that an earlier
    process left."""
    context, folder = candidate.context, candidate.folder
    model, source = candidate.model(), candidate.source()
    _inherit(candidate, model)
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


def _inherit(candidate: Candidate, model: torch.nn.Module) -> None:
    """Start with what the donor has in common with the network. What came of it is kept in the trial's folder, so that
    whoever goes on with the trial begins alike, also where the donor's weights have gone since."""
    path, weights = candidate.folder / "inherited.json", candidate.folder / "inherited.safetensors"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == candidate.key:
            model.load_state_dict(load_file(weights))
            candidate.beside["inherited"] = kept["inherited"]
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing is kept yet, or not all of it was written
    if candidate.donor is None:
        return
    context, donor = candidate.context, candidate.donor
    there = proxy_folder(context.run_dir, donor["key"])
    if context.store is not None:
        there = candidate.folder / "donor"
        context.store.fetch(f"proxy/{donor['key']}", there)
    if not (there / DESCRIPTION).exists():
        return
    dataset = context.dataset()
    given, genotype = load_file(there / WEIGHTS), Genotype.from_json(donor["genotype"])
    share = inherit(model, candidate.genotype, given, genotype, dataset.num_classes, dataset.in_channels)
    candidate.beside["inherited"] = {"from": donor["number"], "share": round(share, 4)}
    if context.store is not None:
        shutil.rmtree(there)  # else it would be sent with what the trial saves
    save_weights(model, weights)
    write_atomically(path, json.dumps({"key": candidate.key, **candidate.beside}))


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
