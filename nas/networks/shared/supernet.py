"""Supernet: all networks of a search space with one set of weights.

Blocks of one kind at one position share their weights over all widths and operators, but for what belongs to an
operator; that is shared over widths, windows, numbers of kernels and orders: a smaller one has the first channels, the
middle of the window, the last steps.

Papers: Single Path One-Shot (https://arxiv.org/abs/1904.00420), FairNAS (https://arxiv.org/abs/1907.01845),
Once for All (https://arxiv.org/abs/1908.09791), BigNAS (https://arxiv.org/abs/2003.11142).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from nas.base.seeds import keyed_seed
from nas.networks.blocks import Head, build_block, build_conv_head, build_stem
from nas.networks.shared.layouts import Named, layouts
from nas.networks.shared.parts import Index, Layout, indices, put, shape, taken, union
from nas.operators.common import drawing
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace, Value

SHARED_OPTIONS = ("kernel_size", "num_kernels", "order")
"""Options of operators whose values share weights."""


SLOTS = {
    "basic": dict.fromkeys(("conv1", "norm1", "conv2", "norm2"), "operator"),
    "bottleneck": {"conv1": "pointwise", "conv2": "operator", "norm2": "operator", "conv3": "pointwise"},
    "inverted_residual": {"expand": "pointwise", "conv": "operator", "norm": "operator", "project": "pointwise"},
    "gated": {"conv": "operator"},
}
"""Block kind -> its parts that depend on the operator of a role; those of others depend on it in all their parts."""


class NotShared(ValueError):
    """A network that a supernet does not have."""


@dataclass(frozen=True)
class _Part:
    """Stem, block, or head of a network."""

    place: tuple
    """Such as ("stages", 0, 1), as names of weights begin."""
    in_channels: int
    spec: Any


@dataclass(frozen=True)
class _Piece:
    """A part of networks as the supernet has it: its module, without weights, and where its weights are."""

    module: nn.Module
    weights: dict[str, tuple[str, tuple[Index, ...]]]
    """Its name of a weight -> the shared one's, and which numbers of that."""
    tempered: list[nn.Module]
    """ODConvs inside."""


class Supernet(nn.Module):
    """[N, in_channels, H, W] -> logits [N, num_classes], by another network of the space in each pass.

    Of each `num_paths` passes in training the first is through a network of the greatest depths and widths, the second
    through one of the least, the others through any between (the sandwich rule). Each block kind and operator of a
    stage is used once before any is used twice. Which network it is follows from `seed` and the number of passes so
    far, which the state dict has. Passes in evaluation are through networks of any size, the same after every call of
    `eval`. Norms take the statistics of each batch; those of one network are found by `nas.training.supernet`.

    It holds the weights of all operators of each block at its largest. Raises ValueError for a space whose blocks do
    not share shapes.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_classes: int,
        in_channels: int = 3,
        num_paths: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        self.space, self.num_classes, self.in_channels = space, num_classes, in_channels
        self.num_paths, self.seed = num_paths, seed
        self.temperature = 1.0
        """Of every ODConv."""
        self.passes = self.looked = 0
        """Passes in training; in evaluation, since it began."""
        self.taught: Tensor | None = None
        """Logits of the latest of the largest networks."""
        self.weights = nn.Module()
        self._layouts: dict[str, Layout] = {}
        self._pieces: dict[_Part, _Piece] = {}
        self._choices = space.choices()
        with drawing():
            started = self._started()
        for name, (layout, parts) in started.items():
            whole = torch.zeros(shape(layout))
            for own, values in sorted(parts, key=lambda part: part[1].numel()):
                put(whole, indices(layout, own), values)
            self._layouts[name] = layout
            _hold(self.weights, name, nn.Parameter(whole))

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            self.looked += 1
            return self.run(self.genotype(self.looked - 1), images)
        logits = self.run(self.path(self.passes), images)
        if self.passes % self.num_paths == 0:
            self.taught = logits.detach()
        self.passes += 1
        return logits

    def train(self, mode: bool = True) -> Supernet:
        self.looked = 0
        return super().train(mode)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.passes)

    def set_extra_state(self, state: Tensor) -> None:
        self.passes = int(state)

    def run(self, genotype: Genotype, images: Tensor) -> Tensor:
        """Logits [N, num_classes] of one network; norms take the statistics of the batch.

        Raises NotShared for a network that is not of the space.
        """
        if len(images) == 1:  # of one value a norm has no statistics
            return self.run(genotype, torch.cat([images, images]))[:1]
        shared = dict(self.weights.named_parameters())
        x = images
        for piece in self._of(genotype):
            for module in piece.tempered:
                module.temperature = self.temperature  # type: ignore[assignment]
            piece.module.train(self.training)
            weights = {own: taken(shared[name], where) for own, (name, where) in piece.weights.items()}
            x = functional_call(piece.module, weights, (x,))
        return x

    @torch.no_grad()
    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """The weights of one network, as the state dict of `build_model` names them; without the statistics of norms.

        Raises NotShared as `run` does.
        """
        shared = dict(self.weights.named_parameters())
        found = {}
        for prefix, piece in zip(_prefixes(genotype), self._of(genotype), strict=True):
            for own, (name, at) in piece.weights.items():
                found[prefix + own] = taken(shared[name], at).clone()
        return found

    def path(self, number: int) -> Genotype:
        """The network of a pass in training."""
        return self.space.decode(self._drawn(number))

    def genotype(self, number: int) -> Genotype:
        """One of any size."""
        return self.space.decode(self._drawn(number, any_size=True))

    def _drawn(self, number: int, any_size: bool = False) -> dict[str, Value]:
        path = number % self.num_paths
        draw = random.Random(keyed_seed(self.seed, "path", number, int(any_size)))
        params: dict[str, Value] = {}
        for name, values in self._choices.items():
            if name.endswith((".depth", ".width")):
                sizes = sorted(values, key=float)
                fixed = None if any_size or self.num_paths < 3 else {0: sizes[-1], 1: sizes[0]}.get(path)
                params[name] = draw.choice(sizes) if fixed is None else fixed
            else:
                cycle, position = divmod(number, len(values))
                order = random.Random(keyed_seed(self.seed, "cycle", name, cycle)).sample(
                    range(len(values)), len(values)
                )
                params[name] = values[order[position]]
        return params

    def _of(self, genotype: Genotype) -> list[_Piece]:
        """The parts of a network, in order."""
        return [self._piece(part) for part in _parts(genotype)]

    def _piece(self, part: _Part) -> _Piece:
        if part not in self._pieces:
            with torch.inference_mode(False):  # it is used in training as well
                self._pieces[part] = self._laid_out(part)
        return self._pieces[part]

    def _laid_out(self, part: _Part) -> _Piece:
        with torch.device("meta"):
            module = self._build(part)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
                norm.track_running_stats = False
        weights = {}
        for own, (name, layout) in layouts(module).items():
            name = _name(part, name)
            if name not in self._layouts:
                raise NotShared(f"the supernet has no {name}")
            try:
                weights[own] = (name, indices(self._layouts[name], layout))
            except (ValueError, KeyError) as error:
                raise NotShared(f"{name}: {error}") from None
        return _Piece(module, weights, [each for each in module.modules() if hasattr(each, "temperature")])

    def _build(self, part: _Part) -> nn.Module:
        return _built(part, self.num_classes, self.in_channels)

    def _started(self) -> dict[str, tuple[Layout, list[tuple[Layout, Tensor]]]]:
        """Of each weight, the layout that has room for all networks, and what the largest of each operator start as."""
        found: dict[str, tuple[Layout, list]] = {}
        for part in _largest(self.space):
            module = self._build(part)
            values = dict(module.named_parameters())
            for own, (name, layout) in layouts(module).items():
                name = _name(part, name)
                known, begun = found.get(name, (layout, []))
                try:
                    found[name] = union(known, layout), [*begun, (layout, values[own].detach())]
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return found


def shared_layouts(genotype: Genotype, num_classes: int, in_channels: int) -> Named:
    """Of each parameter of a network, by its name there: what it is called among those that networks share, and its
    layout."""
    found: Named = {}
    with torch.device("meta"):
        for prefix, part in zip(_prefixes(genotype), _parts(genotype), strict=True):
            for own, (name, layout) in layouts(_built(part, num_classes, in_channels)).items():
                found[prefix + own] = (_name(part, name), layout)
    return found


def _built(part: _Part, num_classes: int, in_channels: int) -> nn.Module:
    if part.place[0] == "stem":
        return build_stem(part.spec, in_channels)
    if part.place[0] == "conv_head":
        return build_conv_head(part.in_channels, part.spec)
    if part.place[0] == "head":
        return Head(part.in_channels, part.spec, num_classes, None, "avg")
    return build_block(part.in_channels, part.spec)


def _parts(genotype: Genotype) -> list[_Part]:
    """From input to output."""
    found, channels = [_Part(("stem",), 0, genotype.stem)], genotype.stem.width
    for i, stage in enumerate(genotype.stages):
        for j, spec in enumerate(stage):
            found.append(_Part(("stages", i, j), channels, spec))
            channels = spec.width
    head = genotype.head
    return [*found, _Part(("conv_head",), channels, head), _Part(("head",), head.width or channels, head)]


def _prefixes(genotype: Genotype) -> list[str]:
    return [".".join(map(str, part.place)) + "." for part in _parts(genotype)]


def _largest(space: SearchSpace) -> list[_Part]:
    """The parts of networks of the greatest depths and widths, with each block kind and operators: each part once."""
    sizes, kinds, labels, pointwise = {}, {}, {}, {}
    for name, values in space.choices().items():
        last = name.rpartition(".")[2]
        group = {"depth": sizes, "width": sizes, "block": kinds, "pointwise": pointwise}.get(last, labels)
        group[name] = [max(values, key=float)] if group is sizes else values  # type: ignore[arg-type]
    found: dict[_Part, None] = {}
    for at in itertools.product(
        *(range(max(map(len, group.values()), default=1)) for group in (kinds, labels, pointwise))
    ):
        params = {name: values[0] for name, values in sizes.items()}
        for group, position in zip((kinds, labels, pointwise), at, strict=True):
            params |= {name: values[position % len(values)] for name, values in group.items()}
        found |= dict.fromkeys(_parts(space.decode(params)))
    return list(found)


def _name(part: _Part, weight: str) -> str:
    """What a weight of a part is called among the shared ones.

    Of blocks of a kind, what is no part of an operator is shared by all of them, so that the channels between blocks
    mean the same whichever operator they come from.
    """
    place, spec = part.place, part.spec
    if place[0] == "head":
        return f"head.{spec.kind}.{weight}"
    if place[0] != "stages":
        return f"{place[0]}.{weight}"
    slots = SLOTS.get(spec.kind)
    role = "operator" if slots is None else slots.get(weight.partition(".")[0])
    family = [_family(getattr(spec, role, None))] if role else []
    return ".".join([*map(str, place), spec.kind.replace(".", "_"), *family, weight])


def _family(operator: specs.Operator | None) -> str:
    """What operators that share weights have in common."""
    if operator is None:
        return "conv"
    options = [
        getattr(operator, field.name)
        for field in fields(operator)
        if field.name not in ("op", *SHARED_OPTIONS) and getattr(operator, field.name) != field.default
    ]
    return "-".join(map(str, [operator.op, *options])).replace(".", "_")


def _hold(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *path, last = name.split(".")
    for step in path:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root._modules[step]  # type: ignore[assignment]
    root.register_parameter(last, parameter)
