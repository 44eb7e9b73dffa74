"""What hangs on `proxy.task`: which data sets, objectives and options go with classifiers, and which with detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.base.section import SCENES
from nas.config.evaluators import TRAINED, FigureName

if TYPE_CHECKING:
    from nas.config.sections import ObjectiveConfig, ProxyConfig
    from nas.space.sections import SpaceConfig

OF_CLASSIFIERS = (
    *("label_smoothing", "loss", "bce_threshold", "mixup", "cutmix", "layer_decay"),
    *("data_dir", "max_images_per_class", "inherit"),
)
"""Options of `proxy` that a detector's training does not have."""
AUGMENTED = ("none", "shift")
"""What may be done to pictures with boxes."""
SMALLEST_SCENE = 64
"""Pixels that scattered digits need."""


def trained_by(space: SpaceConfig) -> FigureName:
    """What a training says of the networks of a space."""
    return "top1" if space.dense is None else "box_ap"


def check_task(proxy: ProxyConfig) -> None:
    """Raise ValueError for a data set or an option that the task does not have."""
    if proxy.task == "classification":
        if proxy.dataset in SCENES:
            raise ValueError(f"dataset = {proxy.dataset!r}: has boxes, and is for task: detection")
        if proxy.num_scenes is not None:
            raise ValueError("num_scenes: is for scattered_digits, of task: detection")
        return
    if proxy.dataset not in SCENES:
        allowed = ", ".join(SCENES)
        raise ValueError(f"dataset = {proxy.dataset!r}: is for classification; allowed for detection are {allowed}")
    for name in OF_CLASSIFIERS:
        if getattr(proxy, name) != type(proxy).model_fields[name].default:
            raise ValueError(f"{name}: is for classification, detection has none")
    augments: Any = proxy.augment if isinstance(proxy.augment, list) else [proxy.augment]
    if wrong := [kind for kind in augments if kind not in AUGMENTED]:
        raise ValueError(f"augment = {wrong[0]!r}: allowed for detection are {', '.join(AUGMENTED)}")
    if proxy.resolution < SMALLEST_SCENE:
        raise ValueError(f"resolution = {proxy.resolution}: allowed is {SMALLEST_SCENE} or more for {proxy.dataset}")


def check_networks(proxy: ProxyConfig, space: SpaceConfig) -> None:
    """Raise ValueError where the networks of a space are not made for the task."""
    if proxy.task == "detection" and space.dense is None:
        raise ValueError("task: detection needs detectors; space.dense says what their neck and head may be")
    if proxy.task == "classification" and space.dense is not None:
        raise ValueError("task: the networks of space.dense are detectors; write proxy.task: detection")


def check_objective(objective: ObjectiveConfig, space: SpaceConfig) -> None:
    """Raise ValueError for an objective that is of the other task, or a way to measure that detectors do not have."""
    trained, name = trained_by(space), objective.name
    for option, only in (("form", "plain"), ("runtime", "torch")):
        if space.dense is not None and getattr(objective, option) != only:
            raise ValueError(f"{name}: {option} of detectors is {only} only")
    if name in TRAINED and name != trained:
        made = "there is no space.dense" if trained == "top1" else "space.dense makes detectors"
        raise ValueError(f"{name} is of {'detectors' if trained == 'top1' else 'classifiers'}, {made}; write {trained}")
