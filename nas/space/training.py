"""What a search chooses of a training, beside its network: the parameters whose names begin with `proxy.`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nas.space.genotype import Genotype

PREFIX = "proxy."


def training_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Option of `proxy` -> the value that these parameters choose; empty where the file leaves no choice."""
    return {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}


def training_words(training: Mapping[str, Any]) -> str:
    """What `training_of` gives in words, such as `learning_rate 0.008, optimizer sgd`."""
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in training.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def key_of(genotype: Genotype, params: Mapping[str, Any]) -> str:
    """What tells one trial's result from another's: the network's key, or of network and chosen training together."""
    training = training_of(params)
    if not training:
        return genotype.key
    text = f"{genotype.key} {json.dumps(training, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
