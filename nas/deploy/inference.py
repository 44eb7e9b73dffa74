"""Using a retrained network: its accuracy on images at several resolutions, its guesses for single ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.base.errors import UserError
from nas.base.machine import num_cpus
from nas.config.training import RetrainConfig
from nas.data.batches import normaliser
from nas.data.image_cache import read_image, square
from nas.data.sources import open_source
from nas.data.streaming import IMAGENET_MEAN, IMAGENET_STD, RESAMPLING
from nas.deploy.retrained import Retrained
from nas.networks.precision import to_device, usable_device
from nas.training.loop import measure_score


def evaluate(
    retrained: Retrained,
    data_dir: Path | None,
    cache_dir: Path,
    *,
    resolutions: Iterable[int] = (),
    batch_size: int = 128,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Accuracy on the evaluation images, one entry per resolution: resolution, num_images, loss, top1, top5.

    Raises UserError where the images have other classes than the network, and for what reading them raises.
    """
    training = retrained.described["training"]
    model, place_of = retrained.model(), usable_device(device)
    to_device(model, place_of)
    found = []
    for resolution in resolutions or (retrained.resolution,):
        settings = training | {"evaluation_resolution": resolution, "batch_size": batch_size, "device_batch_size": None}
        if training["dataset"] != "imagefolder":
            settings["resolution"] = resolution
        seed = settings.pop("seed")
        config = RetrainConfig.model_validate(settings | {"augment": "none", "auto_augment": None, "color_jitter": 0.0})
        num_workers = min(num_cpus(), 8) if config.dataset == "imagefolder" else 0
        source = open_source(
            config, seed=seed, device=place_of, cache_dir=cache_dir, data_dir=data_dir, num_workers=num_workers
        )
        if list(source.class_names) != retrained.class_names:
            raise UserError(
                f"{data_dir}: has {source.num_classes} classes ({', '.join(source.class_names[:3])}, ...), the network "
                f"{len(retrained.class_names)} ({', '.join(retrained.class_names[:3])}, ...)"
            )
        score = measure_score(model, source)
        found.append(
            {
                "resolution": resolution,
                "num_images": source.num_validation,
                "loss": score.loss,
                "top1": score.top1,
                "top5": score.top5,
            }
        )
    return found


def predict(
    retrained: Retrained,
    images: Iterable[Path],
    *,
    top: int = 5,
    resolution: int | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """For each image file its `top` likeliest classes: {image, guesses: [{class, probability}]}.

    Raises image_cache.DataError for an unreadable file.
    """
    if retrained.described["training"]["dataset"] != "imagefolder":
        raise UserError(f"{retrained.folder}: trained on {retrained.described['training']['dataset']}, not on files")
    config = RetrainConfig.model_validate(
        {name: value for name, value in retrained.described["training"].items() if name != "seed"}
    )
    side = resolution or retrained.resolution
    resized_side = round(side / config.evaluation_crop)
    resampling = RESAMPLING["bicubic" if config.interpolation == "bicubic" else "bilinear"]
    place_of = usable_device(device)
    model = retrained.model()
    to_device(model, place_of)
    normalise = normaliser(IMAGENET_MEAN, IMAGENET_STD, place_of)
    found = []
    for path in images:
        pixels = np.asarray(square(read_image(path, resized_side), side, resized_side, resampling)).transpose(2, 0, 1)
        with torch.inference_mode():
            logits = model(normalise(torch.from_numpy(pixels.copy())[None].to(place_of)))
        shares, classes = logits[0].float().softmax(0).topk(min(top, logits.shape[1]))
        guesses = [
            {"class": retrained.class_names[number], "probability": share}
            for number, share in zip(classes.tolist(), shares.tolist(), strict=True)
        ]
        found.append({"image": str(path), "guesses": guesses})
    return found
