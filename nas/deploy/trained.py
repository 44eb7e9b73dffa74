"""A finished training as a network with its weights: what evaluation, prediction and export read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.base.errors import UserError
from nas.base.extensions import FOLDER, kept, use_folder
from nas.data.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation
from nas.networks.model import Network, build_model
from nas.networks.weights import load_exactly
from nas.runs.folder import proxy_folder
from nas.space.genotype import Genotype
from nas.training.result import DESCRIPTION, WEIGHTS

PROXY = "proxy"
"""The weights with which the search's own training ended."""
FIGURES = ("top1", "top5", "top1_float32", "top5_float32")


@dataclass(frozen=True)
class TrainedNetwork:
    """What config.json of a retraining, or of the search's own training of a network, says."""

    folder: Path
    described: dict[str, Any]
    file: Path
    """Its weights; with others than those at the end, `described` has their accuracies, or none."""
    of_epoch: str = "last epoch"
    """When in the training they were written."""

    @property
    def genotype(self) -> Genotype:
        return Genotype.from_dict(self.described["genotype"])

    @property
    def class_names(self) -> list[str]:
        return self.described.get("class_names") or [str(i) for i in range(self.described["num_classes"])]

    @property
    def resolution(self) -> int:
        return self.described["resolution"]

    @property
    def num_channels(self) -> int:
        return self.described["in_channels"]

    @property
    def preparation(self) -> Preparation:
        """How images are brought to the network. Raises UserError where an older retraining does not say it."""
        if "preparation" in self.described:
            return Preparation.from_dict(self.described["preparation"])
        training = self.described["training"]
        if training["dataset"] != "imagefolder":
            raise UserError(
                f"{self.folder / 'config.json'}: mean and deviation of the images are not in it, as of a retraining by "
                "an earlier version; retrain again"
            )
        interpolation = "bicubic" if training["interpolation"] == "bicubic" else "bilinear"
        return Preparation(IMAGENET_MEAN, IMAGENET_STD, training["evaluation_crop"], interpolation)

    @property
    def facts(self) -> dict[str, Any]:
        """What whoever has the network as a file needs to use it: key, classes, channels, resolution, mean, std, crop,
        interpolation."""
        images = {"channels": self.num_channels, "resolution": self.resolution} | self.preparation.to_dict()
        return {"key": self.described["key"], "classes": self.class_names} | images

    @property
    def code(self) -> dict[str, str]:
        """The files of modules of others that the network needs."""
        return next(filter(None, map(kept, _code_folders(self.folder))), {})

    def model(self) -> Network:
        """The network in eval mode with its weights, on the CPU. Raises UserError where they do not fit."""
        model = build_model(self.genotype, self.described["num_classes"], self.described["in_channels"])
        load_exactly(model, self.file)
        return model.eval()

    def with_weights(self, which: str) -> TrainedNetwork:
        """The same with the weights of the `last` epoch, the `best` one, the average (`ema`), or of a file.

        Raises UserError for weights that there are not.
        """
        if which in CHOICES:
            return CHOICES[which](self)
        return self._with(Path(which), {}, Path(which).name)

    def _with(self, file: Path, figures: dict[str, float], of_epoch: str) -> TrainedNetwork:
        others = {name: value for name, value in self.described.items() if name not in FIGURES}
        return replace(self, described=others | figures, file=file, of_epoch=of_epoch)


def _best(trained: TrainedNetwork) -> TrainedNetwork:
    found = sorted((trained.folder / "best").glob("epoch-*.safetensors"), key=lambda path: path.stem.split("-")[::-1])
    if not found:
        raise UserError(f"--weights best: {trained.folder} keeps no best epochs")
    epoch = int(found[-1].stem.split("-")[1])
    with (trained.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if int(row["epoch"]) == epoch)
    figures = {name: float(row[f"eval_{name}"]) / 100 for name in ("top1", "top5")}
    return trained._with(found[-1], figures, f"epoch {epoch}, the best of {trained.described['epochs']}")


def _average(trained: TrainedNetwork) -> TrainedNetwork:
    if trained.described["training"].get("ema") is None:
        raise UserError(f"--weights ema: {trained.folder} was trained without an average (retrain.ema)")
    return trained  # which is what the training is scored by, and ends with


CHOICES: dict[str, Callable[[TrainedNetwork], TrainedNetwork]] = {
    "last": lambda trained: trained,
    "best": _best,
    "ema": _average,
}


def find_trained(run_dir: Path, key: str, weights: str = "last", name: str = "") -> TrainedNetwork:
    """A network of a run with weights: of its retraining, or with `proxy` those of the search's own training.

    Raises UserError where `key` does not begin the key of exactly one, see `find_retrained`.
    """
    if weights not in (PROXY, *CHOICES) and not Path(weights).is_file():
        raise UserError(f"--weights {weights!r}: allowed are {', '.join(CHOICES)}, {PROXY} or a file of weights")
    if weights == PROXY:
        return _found(run_dir, key, proxy_folder(run_dir, ""), "networks of the front with weights of the search", "")
    return find_retrained(run_dir, key, name).with_weights(weights)


def find_retrained(run_dir: Path, key: str, name: str = "") -> TrainedNetwork:
    """The finished retraining in a run whose key begins with `key`; raises UserError where there is not exactly one.

    Of several trainings of a network that of this `name`; without one, the one without a name, or the only one.
    """
    advice = f"nas retrain {run_dir.name} --key KEY"
    if any(proxy_folder(run_dir, "").glob(f"{key or '*'}*/{DESCRIPTION}")):
        advice += f"; the weights of the search's own training: --weights {PROXY}"
    return _found(run_dir, key, run_dir / "retrain", "retrained architectures", advice, name)


def _found(run_dir: Path, key: str, root: Path, what: str, advice: str, name: str = "") -> TrainedNetwork:
    folders = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{DESCRIPTION}"))}
    found = [
        folder for full, folder in folders.items() if full.startswith(key) and (not name or full.endswith(f"-{name}"))
    ]
    if len({folder.name.partition("-")[0] for folder in found}) == 1 < len(found):
        found = [folder for folder in found if "-" not in folder.name]
    if len(found) != 1:
        raise UserError(
            f"--key {key!r}: {len(found) or 'no'} {what} of {run_dir.name} begin so; "
            f"there are {', '.join(folders) or 'none'}" + (f" ({advice})" if advice else "")
        )
    return read_trained(found[0])


def read_trained(folder: Path) -> TrainedNetwork:
    """The training in a folder. Raises UserError for a folder that is none."""
    path = folder / DESCRIPTION
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        missing = {"genotype", "num_classes", "in_channels", "resolution", "training"} - described.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not the description of a retraining ({error})") from None
    if missing:
        raise UserError(f"{path}: not the description of a retraining; {min(missing)} is missing")
    for root in _code_folders(folder):
        if (root / FOLDER).is_dir():
            use_folder(root)
            break
    return TrainedNetwork(folder, described, folder / WEIGHTS)


def _code_folders(folder: Path) -> tuple[Path, Path]:
    """Its own, or that of its run."""
    return folder, folder.parent.parent
