"""A finished retraining as a network with its weights: what evaluation, prediction and export read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from nas.base.errors import UserError
from nas.base.extensions import FOLDER, use_folder
from nas.data.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation
from nas.networks.model import Network, build_model
from nas.space.genotype import Genotype


@dataclass(frozen=True)
class Retrained:
    """What config.json of a retraining says."""

    folder: Path
    described: dict[str, Any]

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

    def model(self) -> Network:
        """The network in eval mode with its weights, on the CPU. Raises UserError where they do not fit."""
        model = build_model(self.genotype, self.described["num_classes"], self.described["in_channels"])
        path = self.folder / "model.safetensors"
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: not the weights of this network ({str(error).splitlines()[0]})") from None
        return model.eval()


def find_retrained(run_dir: Path, key: str) -> Retrained:
    """The finished retraining in a run whose key begins with `key`; raises UserError where there is not exactly one."""
    folders = {path.parent.name: path.parent for path in sorted((run_dir / "retrain").glob("*/config.json"))}
    found = [folder for name, folder in folders.items() if name.startswith(key)]
    if len(found) != 1:
        raise UserError(
            f"--key {key!r}: {len(found) or 'no'} retrained architectures of {run_dir.name} begin so; "
            f"retrained are {', '.join(folders) or 'none'} (nas retrain {run_dir.name} --key KEY)"
        )
    return read_retrained(found[0])


def read_retrained(folder: Path) -> Retrained:
    """The retraining in a folder. Raises UserError for a folder that is none."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        missing = {"genotype", "num_classes", "in_channels", "resolution", "training"} - described.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'}: not the description of a retraining ({error})") from None
    if missing:
        raise UserError(f"{folder / 'config.json'}: not the description of a retraining; {min(missing)} is missing")
    if (folder / FOLDER).is_dir():
        use_folder(folder)
    return Retrained(folder, described)
