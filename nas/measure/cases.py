"""The calls of kernels that the networks of a space can make in a search.

Every part that a network can have runs once, with few images and all weights 0: that takes less time than to follow
the shapes on tensors without memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import nn

from nas.config.sections import ExperimentConfig, ObjectiveConfig
from nas.kernels.tools import choosing
from nas.kernels.tools.choosing import FORMS, Case
from nas.measure.shapes import Shapes, never_compiled
from nas.networks.blocks import build_block, build_conv_head, build_stem
from nas.networks.fuse import fuse_for_inference
from nas.networks.precision import named_dtype, to_device, to_memory_format, training_dtype
from nas.space import specs
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace, Value

FEW = 13  # images, a number that is no other first length of a tensor: cases with more are made from those


@dataclass(frozen=True)
class Load:
    """How networks are run: numbers of images, with gradients or not, where, in which autocast dtype (None: float32),
    with how many threads of a CPU, in the form for inference or not."""

    batch_sizes: tuple[int, ...]
    training: bool
    device: torch.device
    dtype: torch.dtype | None
    num_threads: int
    fused: bool = False


@dataclass(frozen=True)
class Part:
    """A stem, a block or what is before the pooling, with the channels and the side of the square map it gets."""

    spec: specs.Stem | specs.Block | specs.Head
    channels: int
    side: int


def loads(
    config: ExperimentConfig, num_train: int, num_validation: int, device: torch.device, num_threads: int
) -> list[Load]:
    """How the trials of a search, on `device`, run a network: training, evaluation, measurements; of an evaluation not
    what is left of its images behind the whole batches."""
    size, dtype = config.proxy.batch_size, training_dtype(config.proxy.amp, device)
    step, longer = divmod(num_train, -(-num_train // size))  # as `nas.data.batches.split_steps`
    trained = (step + 1, step) if longer else (step,)
    evaluated = (min(size, num_validation),)
    found = [Load(trained, True, device, dtype, num_threads), Load(evaluated, False, device, dtype, num_threads)]
    objectives = {objective.name: objective for objective in config.objectives}
    for name in ("latency_ms", "peak_memory_mb"):
        if name in objectives or name in config.constraints:
            asked = objectives.get(name) or ObjectiveConfig.model_validate({"name": name})
            target = torch.device(asked.device or device)
            if asked.runtime == "onnxruntime":
                continue  # which runs none of our kernels
            threads = asked.threads if name == "latency_ms" else num_threads
            how = (target, named_dtype(asked.dtype), threads, asked.form == "fused")
            found.append(Load((asked.batch_size,), False, *how))
    return found


def cases(parts: Iterable[Part], loads: Iterable[Load]) -> dict[Case, str]:
    """The cases of parts of networks, each with the form that the rule says."""
    found: dict[Case, str] = {}
    for part in parts:
        try:
            with torch.device("meta"):
                model = build_part(part)
            for load in loads:
                noted = _noted(model, part, load)
                if not noted:
                    break  # a part without any has none in whatever way it is run
                found |= noted
        except Exception:  # a part that fails fails its trials, which say why
            continue
    return found


def parts_of_space(space: SearchSpace, in_channels: int, side: int) -> dict[Part, None]:
    """All parts that networks of a space are made of, once each.

    The blocks of a stage depend on the choices of the stage and on the width of the one before; all its blocks may have
    the same operator, also where each has its own choice, as a block knows nothing of the others.
    """
    choices, found = space.choices(), dict[Part, None]()
    for i in range(len(space.config.stages)):
        ours = {name: values for name, values in choices.items() if name.startswith(f"stages.{i}.")}
        operators = [name for name in ours if ".operator" in name]
        others = [name for name in ours if name not in operators and not name.endswith(".depth")]
        widths = choices.get(f"stages.{i - 1}.width", [0])
        most = range(max(len(ours[name]) for name in operators))
        for turn, (width, *picked) in product(most, product(widths, *(ours[name] for name in others))):
            params: dict[str, Value] = {name: values[0] for name, values in choices.items()}
            params |= {f"stages.{i - 1}.width": width, **dict(zip(others, picked, strict=True))}
            params |= {name: values[turn % len(values)] for name, values in ours.items() if name in operators}
            params[f"stages.{i}.depth"] = max(map(int, ours[f"stages.{i}.depth"]))
            found |= dict.fromkeys(parts(space.decode(params), in_channels, side))
    return found


def parts(genotype: Genotype, in_channels: int, side: int) -> Iterator[Part]:
    """The parts of a network for images of `in_channels`, `side` pixels wide."""
    stem = Part(genotype.stem, in_channels, side)
    yield stem
    channels, side = genotype.stem.width, _side_behind(stem)
    for block in genotype.blocks:
        yield Part(block, channels, side)
        channels, side = block.width, -(-side // block.stride)
    yield Part(genotype.head, channels, side)


@lru_cache
def _side_behind(stem: Part) -> int:
    with torch.device("meta"), torch.no_grad(), never_compiled(Shapes()):
        return build_part(stem).eval()(torch.empty(1, stem.channels, stem.side, stem.side)).shape[2]


def build_part(part: Part) -> nn.Module:
    if isinstance(part.spec, specs.Stem):
        return build_stem(part.spec, part.channels)
    if isinstance(part.spec, specs.Head):
        return build_conv_head(part.channels, part.spec)
    return build_block(part.channels, part.spec)


def _noted(model: nn.Module, part: Part, load: Load) -> dict[Case, str]:
    model = to_device(copy.deepcopy(model).to_empty(device=load.device), load.device)
    with torch.no_grad():
        for t in (*model.parameters(), *model.buffers()):
            t.zero_()
    model = fuse_for_inference(model) if load.fused else model
    before, found = torch.get_num_threads(), dict[Case, str]()
    torch.set_num_threads(load.num_threads)
    try:
        for size in dict.fromkeys(n if n == 1 else FEW for n in load.batch_sizes):
            images = to_memory_format(torch.zeros(size, part.channels, part.side, part.side, device=load.device))
            # the gradient of an image is asked for by none but the parts before
            images.requires_grad_(load.training and not isinstance(part.spec, specs.Stem))
            noted = choosing.cases(model, images, load.dtype, load.training)
            for case, rule in noted.items():
                if size == 1:
                    found[case] = rule
                    continue
                for images_now in load.batch_sizes:
                    if images_now > 1:
                        other = case.with_images(FEW, images_now)
                        found[other] = FORMS[case.forms].rule(*other.arguments)
    finally:
        torch.set_num_threads(before)
    return found
