"""Optimizers, what they decay, and the moving average of the weights."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nas.base.errors import UserError
from nas.config.training import TrainConfig

Groups = list[dict[str, Any]]


@cache
def without_compiler(kind: Any) -> Callable[..., Optimizer]:
    """A class of optimizers whose methods are not kept from being compiled: the wrappers that see to that import the
    compiler, which takes 2 s of each process that trains, and nothing compiles what calls them."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(plain["step"])})


def build_lamb(groups: Groups, config: TrainConfig) -> Optimizer:
    """LAMB, which also bounds the norm of all gradients by 1. Paper: https://arxiv.org/abs/1904.00962."""
    from timm.optim.lamb import Lamb  # slow to import, and no trial of a search needs it

    return Lamb(groups, config.peak_learning_rate, **_given(config))


OPTIMIZERS: dict[str, Callable[[Groups, TrainConfig], Optimizer]] = {
    # fused: one kernel for all parameters, on CPUs as well
    "sgd": lambda groups, config: without_compiler(SGD)(
        groups, config.peak_learning_rate, config.momentum, nesterov=config.nesterov and config.momentum > 0, fused=True
    ),
    "adamw": lambda groups, config: without_compiler(AdamW)(
        groups, config.peak_learning_rate, fused=True, **_given(config)
    ),
    "lamb": build_lamb,
}


def build_timm(groups: Groups, config: TrainConfig) -> Optimizer:
    """One that timm knows by name. Raises UserError for an unknown name, an option that it does not have, a package or
    a device that it lacks, and one of second order."""
    from timm.optim import create_optimizer_v2, list_optimizers

    name = config.optimizer
    if name.removeprefix("lookahead_") not in list_optimizers():
        near = get_close_matches(name, {*OPTIMIZERS, *map(str, list_optimizers())}, 5)
        raise UserError(
            f"retrain.optimizer: {name!r} is unknown; allowed are {', '.join(OPTIMIZERS)} and what "
            f"timm.optim.list_optimizers() names{', such as ' + ', '.join(near) if near else ''}"
        )
    given = _given(config)
    try:
        found = create_optimizer_v2(groups, name, lr=config.peak_learning_rate, momentum=config.momentum, **given)
    except (TypeError, ValueError, RuntimeError, ImportError, AssertionError) as error:
        raise UserError(f"retrain.optimizer: {name}: {error}") from None
    if getattr(found, "is_second_order", False):
        raise UserError(f"retrain.optimizer: {name} needs second derivatives, which a training does not compute")
    if lost := [option for option in given if option not in found.defaults]:
        raise UserError(f"retrain.optimizer_{lost[0]}: {name} has none")
    return found


def num_states(config: TrainConfig) -> int:
    """Numbers that the optimizer keeps for each weight; of timm's at least one."""
    return {"sgd": int(config.momentum > 0), "adamw": 2, "lamb": 2}.get(config.optimizer, 1)


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer that `config` names, over `parameter_groups`."""
    return OPTIMIZERS.get(config.optimizer, build_timm)(parameter_groups(model, config), config)


def _given(config: TrainConfig) -> dict[str, Any]:
    """The options that were set."""
    options = {"betas": config.optimizer_betas, "eps": config.optimizer_eps}
    return {name: value for name, value in options.items() if value is not None}


def parameter_groups(model: nn.Module, config: TrainConfig) -> Groups:
    """Weights decay; norms, biases and layer scales, which have one dimension, do only with `decay_all`.

    `lr_scale` of a group is layer decay's factor of the learning rate: 1 for the head, and `layer_decay` less with each
    block towards the stem.
    """
    names = dict(model.named_parameters())
    layers = layer_numbers(list(names)) if config.layer_decay < 1 else dict.fromkeys(names, 0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for layer in sorted(set(layers.values())):
        for decays in (True, False):
            scale = config.layer_decay ** (max(layers.values()) - layer)
            decay = config.weight_decay if decays else 0.0
            groups[layer, decays] = {"params": [], "weight_decay": decay, "lr_scale": scale}
    for name, parameter in names.items():
        if parameter.requires_grad:
            groups[layers[name], parameter.ndim > 1 or config.decay_all]["params"].append(parameter)
    return list(groups.values())


def layer_numbers(names: list[str]) -> dict[str, int]:
    """Parameter name -> number of its layer: the stem is 0, each block of the stages one more, the head the last."""
    blocks = [re.match(r"stages\.(\d+)\.(?:blocks\.)?(\d+)\.", name) for name in names]
    positions = sorted({(int(block[1]), int(block[2])) for block in blocks if block})
    numbers = {position: number for number, position in enumerate(positions, start=1)}
    return {
        name: numbers[int(block[1]), int(block[2])] if block else 0 if name.startswith("stem") else len(positions) + 1
        for name, block in zip(names, blocks, strict=True)
    }


class WeightAverage:
    """Exponential moving average of the weights and of the statistics of batch norms, in a network of its own.

    With `warmup` the decay is (1 + step) / (10 + step) early on, so that the random start is forgotten however short
    the training is.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._decay, self._warmup = decay, warmup
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._averaged = [mine for mine, _ in pairs if mine.is_floating_point()]
        self._current = [theirs for mine, theirs in pairs if mine.is_floating_point()]
        self._counters = [(mine, theirs) for mine, theirs in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current weights; `step` counts from 0."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay
        torch._foreach_lerp_(self._averaged, self._current, 1 - decay)
        for mine, theirs in self._counters:
            mine.copy_(theirs)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
