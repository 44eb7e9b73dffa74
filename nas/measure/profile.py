"""profile_network: what a network costs on a device, block by block, as `nas profile` prints it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from nas.base.errors import UserError
from nas.config.sections import ObjectiveConfig
from nas.measure.cost import conv_and_linear_macs, measure, profile
from nas.measure.runtimes import check_runtime
from nas.networks.precision import usable_device
from nas.networks.task import build_measured
from nas.space.genotype import Genotype
from nas.space.published import named_genotype

COSTS = ("num_params", "num_macs", "latency_ms", "peak_memory_mb")


def profile_network(
    name: str,
    device: str,
    batch_size: int,
    resolution: int,
    dtype: str,
    *,
    genotype: Genotype | None = None,
    channels: int = 3,
    num_classes: int = 1000,
    runtime: str = "torch",
    threads: int = 1,
) -> dict[str, Any]:
    """Costs of a published network, a genotype file, or a given `genotype`, and of each of its blocks.

    Of a detector everything is of its network up to the maps of its heads. num_macs is that of one image,
    conv_and_linear_macs the part of it that papers print; latency, memory and the blocks' MACs are those of a batch.
    `runtime`, with so many `threads` of a CPU, is what the latency of the whole is
    measured with, see `nas.measure.runtimes`; the blocks' is PyTorch's. Raises UserError for an unknown network, an
    absent device, and a runtime that cannot be had.
    """
    genotype = genotype or named_genotype(name)
    if genotype.dense is not None and runtime != "torch":
        raise UserError(f"--runtime {runtime}: detectors are measured by torch only")
    model = build_measured(genotype, num_classes, channels, resolution).to(usable_device(device)).eval()
    shape = (channels, resolution, resolution)
    options = {"device": device, "batch_size": batch_size, "dtype": dtype}
    served = {"latency_ms": {"runtime": runtime, "threads": threads}}
    try:
        wanted = [ObjectiveConfig.model_validate({"name": cost, **options, **served.get(cost, {})}) for cost in COSTS]
    except ValidationError as error:
        raise UserError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
    check_runtime(runtime)
    costs = measure(model, shape, wanted, device)
    costs["conv_and_linear_macs"] = conv_and_linear_macs(model, shape)
    images = {"resolution": resolution, "in_channels": channels, "num_classes": num_classes}
    parts = [asdict(part) for part in profile(model, shape, device, batch_size, dtype)]
    return {
        "network": name,
        "key": genotype.key,
        **images,
        **options,
        **costs,
        "parts": parts,
    }


def _served(latency: dict[str, Any]) -> str:
    """What ran the network, where that is not PyTorch in one thread."""
    threads = f", {latency['num_threads']} threads" if latency["num_threads"] > 1 else ""
    return (f", {latency['runtime']}" if latency["runtime"] != "torch" else "") + threads


def to_text(result: dict[str, Any]) -> str:
    latency = result["latency"]
    lines = [
        f"{result['network']} ({result['key']}) at {result['resolution']} pixels, {result['in_channels']} channels, "
        f"{result['num_classes']} classes, batch {result['batch_size']}, "
        f"{result['dtype']}, {result['device']}",
        f"  parameters   {result['num_params'] / 1e6:10.3f} M",
        f"  MACs         {result['num_macs'] / 1e6:10.2f} M per image, "
        f"{result['conv_and_linear_macs'] / 1e6:.2f} M in convolutions and linear layers",
        f"  latency      {result['latency_ms']:10.3f} ms per batch "
        f"(20 to 80 %: {latency['p20_ms']:.3f} to {latency['p80_ms']:.3f}, {latency['num_runs']} runs"
        f"{_served(latency)})",
        f"  peak memory  {result['peak_memory_mb']:10.1f} MB",
        "",
        f"  {'part':<14}{'kind':<24}{'parameters M':>14}{'MACs M':>12}{'ms':>10}",
    ]
    for part in result["parts"]:
        lines.append(
            f"  {part['name']:<14}{part['kind']:<24}{part['num_params'] / 1e6:>14.3f}"
            f"{part['num_macs'] / 1e6:>12.2f}{part['latency_ms']:>10.3f}"
        )
    return "\n".join(lines)
