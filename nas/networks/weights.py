"""Weights from elsewhere in a network: all of them, or as far as they fit a network that is another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nas.networks.model import Network
from nas.networks.published_checkpoint import LISTED, CheckpointError, own_state_dict, read_checkpoint, unwrapped
from nas.space.dilation import undilated
from nas.space.published import PUBLISHED, is_published

FILTER = ".complex_weight"


@dataclass(frozen=True)
class Fit:
    """How weights fitted a network, by the names of its entries."""

    num_loaded: int
    num_entries: int
    adapted: tuple[str, ...]
    """Of another shape, and brought to the network's: the first convolution, the classifier, global filters."""
    fresh: tuple[str, ...]
    """As the network starts, because there was nothing for them."""
    unused: tuple[str, ...]

    def lines(self, source: str) -> list[str]:
        """The same for people."""
        told = {"adapted": self.adapted, "left as they start": self.fresh, "of the file not used": self.unused}
        return [
            f"weights: {self.num_loaded:,} of {self.num_entries:,} entries from {source}",
            *(
                f"weights {what} ({len(names)}): {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"
                for what, names in told.items()
                if names
            ),
        ]


def read_weights(path: Path, model: Network) -> dict[str, Any]:
    """The entries of a file in the names of a network: safetensors, a state dict of torch with wrappers and prefixes
    that tools put around it, one of our checkpoints (its average where it has one), or, for a published network, what
    its authors gave out. Nothing in a file is executed. Raises CheckpointError."""
    given = read_checkpoint(path)
    if isinstance(given.get("average"), Mapping) and "progress" in given:
        given = given["average"]
    state = unwrapped(given)
    own = model.state_dict()
    if not is_published(model.genotype) or sum(key in own for key in state) > len(own) / 2:
        return state
    name = next(name for name, genotype in PUBLISHED.items() if undilated(genotype) == undilated(model.genotype))
    return dict(own_state_dict(name, model, given, same_shapes=False))


def load_exactly(model: Network, path: Path) -> None:
    """Fill a network with a file's weights, all of them. Raises CheckpointError where names or shapes differ."""
    own, state = model.state_dict(), read_weights(path, model)
    wrong = {name for name, value in own.items() if _shape(state.get(name)) != _shape(value)} | (
        state.keys() - own.keys()
    )
    if wrong:
        listed = ", ".join(
            f"{name} is {_shape(state.get(name))}, not {_shape(own.get(name))}" for name in sorted(wrong)[:3]
        )
        raise CheckpointError(f"{path}: not the weights of this network: {listed}")
    model.load_state_dict(state)


def load_fitting(model: Network, path: Path, class_names: Sequence[str] = (), their_names: Sequence[str] = ()) -> Fit:
    """Fill a network with the weights of a file as far as they fit.

    Images with more or fewer channels: the first convolution's weights are repeated or summed, as timm does it. Global
    filters of another grid are resized. Of a classifier of other classes those rows are taken whose class is known by
    name in both; without names it starts anew. Raises CheckpointError where nothing of the stages fits.
    """
    own, state = model.state_dict(), read_weights(path, model)
    loaded, adapted, fresh = {}, [], []
    for name, value in own.items():
        given = state.get(name)
        if not isinstance(given, Tensor):
            fresh.append(name)
            continue
        of_classes = name.startswith("head.fc.") and (len(given) != len(value) or [*their_names] != [*class_names])
        found = _rows(given, value, class_names, their_names) if of_classes else _adapted(name, given, value)
        if found is None:
            fresh.append(f"{name} {_shape(value)}, there {_shape(given)}")
            continue
        loaded[name] = found
        if found is not given:
            adapted.append(f"{name} {_shape(given)} -> {_shape(value)}")
    if not any(name.startswith("stages.") and loaded[name].is_floating_point() for name in loaded):
        raise CheckpointError(
            f"{path}: nothing in it fits the stages of this network; it has {', '.join([*state][:3])}, ..."
        )
    model.load_state_dict(own | loaded)
    return Fit(len(loaded), len(own), tuple(adapted), tuple(fresh), tuple(str(key) for key in state if key not in own))


def _adapted(name: str, given: Tensor, value: Tensor) -> Tensor | None:
    if given.shape == value.shape:
        return given
    if name.endswith(FILTER) and given.ndim == value.ndim and len(given) == len(value):
        return resized_filter(given, (value.shape[1], value.shape[2]))
    if name.startswith("stem.") and given.ndim == 4 and given[:, 0].shape == value[:, 0].shape:
        return _with_channels(given, value.shape[1])
    return None


def resized_filter(weight: Tensor, grid: tuple[int, int]) -> Tensor:
    """A global filter's half spectrum [C, rows, columns, 2] for another grid, as `GlobalLocalFilter` resizes it."""
    parts = functional.interpolate(weight.permute(3, 0, 1, 2), grid, mode="bilinear", align_corners=True)
    return parts.permute(1, 2, 3, 0).contiguous()


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """[O, I, h, w] -> [O, channels, h, w]: summed for one channel, else repeated, and scaled by I / channels."""
    before = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, math.ceil(channels / before), 1, 1)[:, :channels] * (before / channels)


def _rows(given: Tensor, value: Tensor, class_names: Sequence[str], their_names: Sequence[str]) -> Tensor | None:
    """The classifier's entries [classes, ...] with the rows of the classes that both know."""
    rows = {name: row for row, name in enumerate(their_names)}
    shared = [(row, rows[name]) for row, name in enumerate(class_names) if name in rows]
    if not shared or len(given) != len(rows) or given.shape[1:] != value.shape[1:]:
        return None
    ours, theirs = (torch.tensor(side) for side in zip(*shared, strict=True))
    result = value.clone()
    result[ours] = given[theirs].to(result)
    return result


def _shape(value: Any) -> Any:
    return list(value.shape) if isinstance(value, Tensor) else "absent" if value is None else type(value).__name__
