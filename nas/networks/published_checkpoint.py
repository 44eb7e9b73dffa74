"""load_published_checkpoint: the weights that the authors of a published network gave out, in our network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.base.errors import UserError
from nas.networks.model import Network
from nas.networks.published_keys import FAMILIES, family, published_keys
from nas.space.published import PUBLISHED

WRAPPERS = ("state_dict", "model")
LISTED = 20


class CheckpointError(UserError):
    """A checkpoint that cannot be read or that does not fit its network."""


def load_published_checkpoint(model: Network, name: str, checkpoint: Mapping[str, Any] | str | Path) -> None:
    """Fill a published network with the weights of its authors, in the authors' names.

    checkpoint: a state dict, or its file (.safetensors, or .pth read with weights_only=True); also wrapped as
    {"state_dict": ...} or {"model": ...}, with `module.` before every key, or with OpenMMLab's `backbone.` and `head.`.
    All or nothing: where keys or shapes differ a CheckpointError lists what is missing, unexpected, or of another shape
    and the model stays as it was. KeyError for an unknown name.
    """
    PUBLISHED[name]
    given = read_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    own = own_state_dict(name, model, given)
    model.load_state_dict(own)


def own_state_dict(
    name: str, model: Network, checkpoint: Mapping[str, Any], same_shapes: bool = True
) -> dict[str, Tensor]:
    """A published state dict in our names, its keys and shapes checked; see `load_published_checkpoint`.

    Without `same_shapes` only the keys must fit: another classifier or first convolution is for the caller to settle.
    """
    current = model.state_dict()
    keys = published_keys(name, model.genotype, list(current))
    expected: dict[str, tuple[int, ...]] = {}
    for key, parts in keys.items():
        sizes = tuple(current[key].shape)
        halves = [sizes] if len(parts) == 1 or not sizes else _halves(sizes)
        expected |= dict(zip(parts, halves * (len(parts) // len(halves)), strict=True))
    given = _in_our_names(name, checkpoint, expected.keys())
    _check(name, expected, given, same_shapes)
    result = {}
    for key, parts in keys.items():
        tensors = [given[part] for part in parts]
        result[key] = tensors[0] if len(parts) == 1 or not tensors[0].dim() else torch.cat(tensors)
    return result


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """A checkpoint from disk, on the CPU; nothing in the file is executed. Raises CheckpointError."""
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch.load raises whatever the bytes of a file that is no checkpoint lead to
        unsafe = isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower()
        reason = "it holds more than tensors and plain containers" if unsafe else str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not a checkpoint that can be read safely: {reason}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; a state dict is expected")
    return content


def unwrapped(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict in a checkpoint, without what torch programs put around it: `model`, `state_dict`, `module.`"""
    for wrapper in WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, Mapping):
            checkpoint = inner
    state = dict(checkpoint)
    while state and all(isinstance(key, str) and key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _in_our_names(name: str, checkpoint: Mapping[str, Any], expected) -> dict[str, Tensor]:
    """The state dict in a checkpoint, also without the prefixes of OpenMMLab."""
    state = unwrapped(checkpoint)
    prefixed = state and all(isinstance(key, str) and key.startswith(("backbone.", "head.")) for key in state)
    if prefixed and not any(key.startswith("backbone.") for key in expected):
        classifier = FAMILIES[family(name)].end["head.fc."]
        state = {_without_openmmlab(key, str(classifier), expected): value for key, value in state.items()}
    return state


def _without_openmmlab(key: str, classifier: str, expected) -> str:
    if key in expected:  # HorNet's own classifier is called head
        return key
    if key.startswith("head.fc."):
        return key.replace("head.fc.", classifier, 1)
    return key.removeprefix("backbone.").removeprefix("head.")


def _check(name: str, expected: dict[str, tuple[int, ...]], given: Mapping[str, Any], same_shapes: bool) -> None:
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [str(key) for key in given if key not in expected],
        "of another shape": [
            f"{key} is {_shape(given[key])}, not {list(shape)}"
            for key, shape in expected.items()
            if key in given
            and _shape(given[key]) != list(shape)
            and (same_shapes or not isinstance(given[key], Tensor))
        ],
    }
    lines = [
        f"  {kind} ({len(keys)}): {', '.join(keys[:LISTED])}{', ...' if len(keys) > LISTED else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if lines:
        raise CheckpointError("\n".join([f"the checkpoint does not fit {name}:", *lines]))


def _shape(value: Any) -> Any:
    return list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _halves(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    first = sizes[0] // 2
    return [(first, *sizes[1:]), (sizes[0] - first, *sizes[1:])]
