"""What a network costs: parameters, multiply-accumulates, latency, peak memory. None of it needs training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.config.sections import ObjectiveConfig
from nas.measure.latency import Exclusive, latency_of_parts, measure_latency
from nas.measure.memory import peak_memory_bytes
from nas.measure.shapes import Shapes, never_compiled
from nas.networks.fuse import fuse_for_inference
from nas.networks.model import Network

Shape = tuple[int, int, int]
ExclusiveOn = Callable[[torch.device], AbstractContextManager]


@dataclass(frozen=True)
class Part:
    """A part of a network in `profile`: name, such as `stages.0.1`, and its costs at the batch size of the profile."""

    name: str
    kind: str
    num_params: int
    num_macs: int
    latency_ms: float


def measure(
    model: nn.Module,
    input_shape: Shape,
    wanted: Iterable[ObjectiveConfig],
    device: torch.device | str,
    exclusive: ExclusiveOn = nullcontext,
) -> dict[str, Any]:
    """Costs by name, of images [C, H, W] = `input_shape`; `wanted` says which, and at which batch size and dtype.

    `device` is where latency and memory are measured when `wanted` names no other; `exclusive(device)`, of the one that
    is measured on, is held around the timed runs. Latency adds `latency`, the spread and the circumstances. An unknown
    cost is a ValueError.
    """
    costs: dict[str, Any] = {}
    for objective in wanted:
        if objective.name not in COSTS:
            raise ValueError(f"cost = {objective.name!r}: allowed are {', '.join(COSTS)}")
        costs |= COSTS[objective.name](model, input_shape, objective, objective.device or device, exclusive)
    return costs


def num_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_macs(model: nn.Module, input_shape: Shape) -> int:
    """Multiply-accumulates of the inference of one image; see `macs_by_module`."""
    return macs_by_module(model, input_shape)[""]


def macs_by_module(model: nn.Module, input_shape: Shape) -> dict[str, int]:
    """Multiply-accumulates of one image in each submodule, by name; the whole is "".

    Counted from shapes alone, on meta tensors: matrix products, convolutions, and the operations of `kernels` by their
    own formulas. As usual, element-wise arithmetic, norms and pooling count nothing. An operation that should count but
    has no formula is a ValueError.
    """
    root = type(model).__name__
    flops = _flops(model, input_shape)
    counts = {module: sum(by_operation.values()) // 2 for module, by_operation in flops.items()}
    by_name = {
        module.removeprefix(f"{root}."): count for module, count in counts.items() if module.startswith(f"{root}.")
    }
    return dict.fromkeys(dict(model.named_modules()), 0) | by_name | {"": counts.get("Global", 0)}


def conv_and_linear_macs(model: nn.Module, input_shape: Shape) -> int:
    """Multiply-accumulates of one image in convolutions and linear layers alone, the count that papers print.

    Left out are what they leave out: the application of involution's kernels, the mixing of ODConv's, global filters.
    """
    by_operation = _flops(model, input_shape).get("Global", {})
    return sum(flops for operation, flops in by_operation.items() if str(operation) not in UNPRINTED) // 2


NOT_TAKEN_APART: dict[Any, Any] = {torch.ops.aten.upsample_nearest2d: lambda *shapes, **options: 0}
"""Operations without arithmetic that the counter would otherwise look into, in torch's slow way for shapes."""
UNPRINTED = ("opnas.involution", "opnas.global_filter", "aten.mm")


def _flops(model: nn.Module, input_shape: Shape) -> dict[str, dict[Any, int]]:
    """Module -> operation -> floating-point operations of the inference of one image."""
    tensors = {name: tensor.detach().to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        counting = FlopCounterMode(display=False, custom_mapping=NOT_TAKEN_APART)
        with torch.no_grad(), never_compiled(Shapes()), counting as counter:
            never_compiled(counter.mode)
            torch.func.functional_call(model, tensors, torch.empty(1, *input_shape, device="meta"))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return counter.get_flop_counts()


def profile(
    model: nn.Module,
    input_shape: Shape,
    device: torch.device | str,
    batch_size: int = 1,
    dtype: str = "float32",
    exclusive: Exclusive = nullcontext,
) -> list[Part]:
    """The costs of stem, every block, of a detector (see `nas.networks.task.build_measured`) the neck, and head, from
    input to output."""
    parts: dict[str, list[str]] = _parts(model) if isinstance(model, Network) else model.parts()  # pyright: ignore
    names = list(chain.from_iterable(parts.values()))
    times = latency_of_parts(model, names, input_shape, device, batch_size, dtype, exclusive=exclusive)
    macs = macs_by_module(model, input_shape)
    found = []
    for part, names in parts.items():
        modules = [model.get_submodule(name) for name in names]
        params, counted = sum(map(num_params, modules)), sum(macs[name] for name in names)
        kind = type(modules[0] if len(modules) == 1 else nn.Sequential()).__name__
        found.append(Part(part, kind, params, batch_size * counted, sum(times[name] for name in names)))
    return found


def _parts(model: Network) -> dict[str, list[str]]:
    """Part of a classifier -> names of its submodules."""
    blocks = [f"stages.{i}.{j}" for i, stage in enumerate(model.genotype.stages) for j in range(len(stage))]
    return {name: [name] for name in ("stem", *blocks, *(["conv_head"] if len(model.conv_head) else []), "head")}


def _params_cost(
    model: nn.Module, input_shape: Shape, wanted: ObjectiveConfig, device: torch.device | str, exclusive: ExclusiveOn
) -> dict[str, Any]:
    return {"num_params": num_params(model)}


def _macs_cost(
    model: nn.Module, input_shape: Shape, wanted: ObjectiveConfig, device: torch.device | str, exclusive: ExclusiveOn
) -> dict[str, Any]:
    return {"num_macs": num_macs(model, input_shape)}


def _latency_cost(
    model: nn.Module, input_shape: Shape, wanted: ObjectiveConfig, device: torch.device | str, exclusive: ExclusiveOn
) -> dict[str, Any]:
    model = fuse_for_inference(model, device) if wanted.form == "fused" else model
    latency = measure_latency(
        model,
        input_shape,
        device,
        wanted.batch_size,
        wanted.dtype,
        num_threads=wanted.threads,
        runtime=wanted.runtime,
        exclusive=partial(exclusive, torch.device(device)),
    )
    return {"latency_ms": latency.median_ms, "latency": asdict(latency)}


def _memory_cost(
    model: nn.Module, input_shape: Shape, wanted: ObjectiveConfig, device: torch.device | str, exclusive: ExclusiveOn
) -> dict[str, Any]:
    return {"peak_memory_mb": peak_memory_bytes(model, input_shape, device, wanted.batch_size, wanted.dtype) / 1e6}


Cost = Callable[[nn.Module, Shape, ObjectiveConfig, torch.device | str, ExclusiveOn], dict[str, Any]]
COSTS: dict[str, Cost] = {
    "num_params": _params_cost,
    "num_macs": _macs_cost,
    "latency_ms": _latency_cost,
    "peak_memory_mb": _memory_cost,
}
