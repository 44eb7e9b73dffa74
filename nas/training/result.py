"""What a finished training leaves: its weights, and a description that says all that is needed to use them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from nas.base.files import whole_file, write_atomically

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"


def write_result(folder: Path, model: nn.Module, described: Mapping[str, Any]) -> None:
    """Write weights and description, the latter last: a folder that has it is whole.

    `described` has genotype, num_classes, in_channels, resolution, training (the settings), class_names and
    preparation; what else is in it is for people. Raises OSError where a disk is full.
    """
    save_weights(model, folder / WEIGHTS)
    write_atomically(folder / DESCRIPTION, json.dumps(described, indent=1))


def save_weights(model: nn.Module, path: Path) -> None:
    """The state dict as a safetensors file that is whole or absent. Raises OSError where a disk is full."""
    with whole_file(path) as partial:
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, partial)
        except SafetensorError as error:
            if (found := re.search(r"os error (\d+)", str(error))) is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
        partial.chmod(0o644)  # safetensors keeps others out, as no other file of a run does
