"""LatencyTable: the latency of a network as the sum of its parts', each measured once on a device; and how well that
predicts whole networks."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.base.files import write_atomically
from nas.config.sections import ObjectiveConfig
from nas.measure.cases import Part, build_part, parts, parts_of_space
from nas.measure.choices import describe_device
from nas.measure.cost import measure
from nas.networks.model import build_model
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

KEEP_SECONDS = 5.0  # of work that a kill may cost
DRIFT = 0.03
"""What a network that is measured again may differ by; more, and what was measured in between is in doubt."""
ExclusiveOn = Callable[[torch.device], AbstractContextManager]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of a space's networks, for images of `in_channels`, `side` pixels wide."""

    in_channels: int
    side: int
    milliseconds: Mapping[str, float]
    seconds: float
    """That measuring took now; what was known is not measured again."""
    path: Path | None
    """The file where it is kept."""

    def total(self, genotype: Genotype) -> float:
        """The sum over a network's parts. Raises KeyError for a network of another space."""
        return sum(self.milliseconds[str(part)] for part in parts(genotype, self.in_channels, self.side))


def measure_table(
    space: SearchSpace,
    in_channels: int,
    side: int,
    asked: ObjectiveConfig,
    device: torch.device,
    folder: Path | None = None,
    exclusive: ExclusiveOn = nullcontext,
    say: Callable[[str], object] = lambda text: None,
) -> LatencyTable:
    """The table of a space: what the file of this device, and of this way to measure, in `folder` does not have yet is
    measured now and kept there, also if that is interrupted.

    `asked` is the objective latency_ms with its batch size, dtype, form, runtime and threads; `exclusive(device)` is
    held around each measurement.
    """
    about = describe_device(device) | {"asked": asked.model_dump(mode="json")}
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=6).hexdigest()
    path = None if folder is None else folder / f"latency-{digest}.json"
    known = _read(path, about)
    wanted = list(parts_of_space(space, in_channels, side))
    missing = [part for part in wanted if str(part) not in known]
    say(f"{len(wanted)} parts of networks, {len(missing)} to be measured on {about['device']}")
    begin = kept = time.monotonic()
    try:
        for part in missing:
            known[str(part)] = _measured(part, asked, device, exclusive)
            if time.monotonic() - kept > KEEP_SECONDS:
                _write(path, about, known)
                kept = time.monotonic()
    finally:
        if missing:
            _write(path, about, known)
    found = {str(part): known[str(part)] for part in wanted}
    return LatencyTable(in_channels, side, found, time.monotonic() - begin, path)


def kept_table(
    space: SearchSpace, in_channels: int, side: int, asked: ObjectiveConfig, folder: Path, device: torch.device | None
) -> dict[str, Any] | None:
    """What `measure_table` has kept in `folder` of all parts of a space, measured as `asked`: its file's content, of
    these parts alone; the latest of those of `device`, if it is given and there are any, else the latest of any."""
    paths = list(folder.glob("latency-*.json"))
    if not paths:
        return None
    wanted, best = list(map(str, parts_of_space(space, in_channels, side))), ()
    here = None if device is None else describe_device(device)
    found = None
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            about, known, order = read["about"], read["parts"], path.stat().st_mtime
            fits = about["asked"] == asked.model_dump(mode="json") and all(known.get(part, 0) > 0 for part in wanted)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # nothing of ours
            continue
        is_ours = {name: value for name, value in about.items() if name != "asked"} == here
        if fits and (is_ours, order) > best:
            best, found = (is_ours, order), {"about": about, "parts": {part: known[part] for part in wanted}}
    return found


def check_table(
    table: LatencyTable,
    space: SearchSpace,
    num_classes: int,
    asked: ObjectiveConfig,
    device: torch.device,
    count: int = 50,
    seed: int = 0,
    exclusive: ExclusiveOn = nullcontext,
) -> dict[str, Any]:
    """How well the table predicts `count` random networks of the space, each measured whole.

    A prediction is a straight line of the sum over parts, fitted to the other networks, so that what every network has
    besides is in it. `spearman` is the rank correlation, `median_error` and `p95_error` are shares of the measured
    latency. `drift` is the largest change of one network, the sentinel, that is measured before, in the middle and
    behind, `disturbed` how many measurements others slowed.
    """
    draw, choices, genotypes = random.Random(seed), space.choices(), dict[str, Genotype]()
    for _ in range(50 * count):
        if len(genotypes) == count:
            break
        genotype = space.decode({name: draw.choice(values) for name, values in choices.items()})
        genotypes.setdefault(genotype.key, genotype)
    sums = np.array([table.total(genotype) for genotype in genotypes.values()])
    sentinel = sorted(genotypes.values(), key=table.total)[len(genotypes) // 2]

    def latency(genotype: Genotype) -> dict[str, Any]:
        model = build_model(genotype, num_classes, table.in_channels).eval()
        return measure(model, (table.in_channels, table.side, table.side), [asked], device, exclusive)["latency"]

    again, found = [latency(sentinel)], []
    for at, genotype in enumerate(genotypes.values()):
        found.append(latency(genotype))
        if at == len(genotypes) // 2:
            again.append(latency(sentinel))
    again.append(latency(sentinel))
    measured = np.array([one["median_ms"] for one in found])
    errors = np.abs(_predicted(sums, measured) / measured - 1)
    watched = np.array([one["median_ms"] for one in again])
    return {
        "num_networks": len(genotypes),
        "spearman": float(np.corrcoef(_ranks(sums), _ranks(measured))[0, 1]),
        "median_error": float(np.median(errors)),
        "p95_error": float(np.percentile(errors, 95)),
        "drift": float(watched.max() / watched.min() - 1),
        "disturbed": sum(one["disturbed"] for one in [*found, *again]),
        "networks": [
            {"key": key, "sum_ms": float(total), "measured_ms": float(ms)}
            for key, total, ms in zip(genotypes, sums, measured, strict=True)
        ],
    }


def to_text(table: LatencyTable, check: Mapping[str, Any] | None) -> str:
    """Both as lines."""
    kept = f", kept in {table.path}" if table.path else ""
    lines = [f"{len(table.milliseconds)} parts of networks, measured in {table.seconds:.0f} s{kept}"]
    if check:
        doubt = f"; others slowed {check['disturbed']} measurements" if check["disturbed"] else ""
        lines += [
            f"{check['num_networks']} random networks by the sum of their parts: Spearman {check['spearman']:.3f}, "
            f"error {check['median_error']:.1%} in the middle, {check['p95_error']:.1%} for 95 %",
            f"one network measured before, between and behind: {check['drift']:.1%} apart{doubt}",
        ]
        if check["drift"] > DRIFT:
            lines.append(
                f"that is more than {DRIFT:.0%}: measure again on a quieter machine, these figures are in doubt"
            )
    return "\n".join(lines)


def _measured(part: Part, asked: ObjectiveConfig, device: torch.device, exclusive: ExclusiveOn) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_part(part).eval()
    costs = measure(model, (part.channels, part.side, part.side), [asked], device, exclusive)
    return float(f"{costs['latency_ms']:.4g}")


def _predicted(sums: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each network, by the line through all others, each weighted so that shares of its latency count."""
    design = np.column_stack([np.ones_like(sums), sums]) / measured[:, None]
    hat = design @ np.linalg.pinv(design)
    residuals = (1 - hat.sum(1)) / (1 - np.diag(hat))  # of 1 = measured / measured, left out one by one
    return measured * (1 - residuals)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts + 1) / 2)[place]


def _read(path: Path | None, about: Mapping[str, Any]) -> dict[str, float]:
    try:
        read = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {str(name): float(ms) for name, ms in read["parts"].items()} if read.get("about") == about else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or nothing of ours
        return {}


def _write(path: Path | None, about: Mapping[str, Any], known: Mapping[str, float]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"about": about, "parts": known}, indent=1) + "\n")
