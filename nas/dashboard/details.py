"""The data of the page of one trial."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from nas.base.section import EMBEDDED
from nas.dashboard.columns import kinds_of, state_of_trial
from nas.runs.folder import proxy_folder
from nas.runs.reader import GARBLED, RunReader
from nas.runs.record import TrialRecord, record_path
from nas.space import specs

LONGEST_TRACE = 20_000
CONFIG = "config.json"


def details(run: RunReader, number: int) -> dict[str, Any]:
    """What the page says of a trial. Raises KeyError for a number that is not in the run."""
    record, row = run.record(number), run.rows[number]
    folder = run.path / "checkpoints" / str(row.number)
    return {
        "number": row.number,
        "key": row.key,
        "state": state_of_trial(row.state, row.error),
        "error": row.error,
        "seed": str(record.seed),  # more digits than a number of JavaScript has
        "attempts": record.attempts,
        "host": str(record.host),
        "device": str(record.device),
        "seconds": row.seconds,
        "started": row.started,
        "finished": row.finished,
        "evaluations": [_evaluation(each) for each in record.evaluations],
        "timings": _finite(record.timings),
        "params": {str(name): str(value) for name, value in record.params.items()},
        "values": row.costs | row.objectives,
        "latency": _latency(record.costs.get("latency")),
        "curve": [_finite(epoch) for epoch in record.curve],
        "stem": record.genotype["stem"]["kind"],
        "head": _head(record.genotype, run),
        "stages": [[_block(block, run) for block in stage] for stage in record.genotype["stages"]],
        "operators": kinds_of(run),
        "blocks_ms": _block_latency(run.path, row.key, record),
        "genotype": record.genotype,
        "trace": _text(folder / "traceback.txt"),
        "files": _files(run.path, row.number),
        "command": retrain_command(run, row.key),
        "profile": profile_command(run, row.key),
    }


def retrain_command(run: RunReader, key: str) -> str:
    """The command that retrains a network, for a shell in the folder where the dashboard was started; none of a
    detector.

    The digits need no folder, CIFAR takes the proxy's, if given, and a folder of images is for the user to name.
    """
    if run.config is not None and run.config.space.dense is not None:
        return ""
    command = ["nas", "retrain", run_path(run), "--key", key]
    if run.config is None or run.config.retrain.dataset == "imagefolder":
        return shlex.join([*command, "--data", "DIR"])
    proxy, dataset = run.config.proxy, run.config.retrain.dataset
    data_dir = proxy.data_dir if dataset == proxy.dataset and dataset not in EMBEDDED else None
    return shlex.join([*command, "--data", data_dir] if data_dir else command)


def profile_command(run: RunReader, key: str) -> str:
    """The command that measures a network block by block, as the search measured its latency: resolution, channels and
    classes are those of the proxy by themselves."""
    command = ["nas", "profile", run_path(run), "--key", key]
    measured = [o for o in run.objectives if o.name == "latency_ms"]
    if not measured:
        return shlex.join(command)
    latency = measured[0]
    device = latency.device or ("cuda" if run.config and run.config.resources.gpus_per_trial else "cpu")
    given = {
        "device": (device, "cpu"),
        "batch-size": (latency.batch_size, 1),
        "dtype": (latency.dtype, "float32"),
        "runtime": (latency.runtime, "torch"),
        "threads": (latency.threads, 1),
    }
    options = [text for name, (value, usual) in given.items() if value != usual for text in (f"--{name}", str(value))]
    return shlex.join([*command, *options])


def export_command(run: RunReader, key: str, retrained: bool) -> str:
    """The command that writes a network for others; the weights of the search where there are those alone."""
    command = ["nas", "export", run_path(run), "--key", key]
    kept = key.isalnum() and (proxy_folder(run.path, key) / CONFIG).exists()
    return shlex.join([*command, "--weights", "proxy"] if kept and not retrained else command)


def run_path(run: RunReader) -> str:
    """The folder of a run for a shell in the folder where the dashboard was started."""
    path = os.path.relpath(run.path)
    return str(run.path.resolve()) if path.startswith("..") else path


def _block(block: dict[str, Any], run: RunReader) -> dict[str, Any]:
    """A block in words and with the names that its colour hangs on."""
    operator = block["operator"]
    pointwise = block.get("pointwise")
    return {
        "kind": str(block["kind"]),
        "width": block["width"],
        "stride": block.get("stride", 1),
        "operator": str(operator["op"]),
        "label": run.label(operator),
        "pointwise": run.label(pointwise) if pointwise else None,
        "options": _options(operator),
    }


def _head(genotype: dict[str, Any], run: RunReader) -> str:
    """What stands behind the stages, in words that go before `head`."""
    if dense := genotype.get("dense"):
        neck, head = run.label(dense["neck"]), run.label(dense["head"])
        return f"neck {neck} of {dense['channels']} channels, {dense['kind']} {head}"
    return str(genotype.get("head", {}).get("kind", "linear"))


def _options(operator: dict[str, Any]) -> str:
    """The options of an operator that differ from its usual ones, such as `kernel size 5, groups depthwise`."""
    spec = specs.OPERATORS.get(operator["op"])  # of one of others that is not loaded every option is shown
    usual = {field.name: field.default for field in fields(spec)} if spec else {}
    shown = {name: value for name, value in operator.items() if name != "op" and value != usual.get(name)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def _finite(row: dict[str, Any]) -> dict[str, float]:
    return {str(name): value for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}


def _latency(measured: Any) -> dict[str, Any] | None:
    """Percentiles and number of runs of a measured latency, and in words where it was measured."""
    if not isinstance(measured, dict):
        return None
    figures = _finite(measured)
    setting = [str(measured["device"])] if "device" in measured else []
    if "batch_size" in figures:
        setting.append(f"batch of {figures['batch_size']:.0f}")
    if "dtype" in measured:
        setting.append(str(measured["dtype"]))
    if "num_threads" in figures and str(measured.get("device")) == "cpu":
        setting.append(f"{figures['num_threads']:.0f} thread" + ("" if figures["num_threads"] == 1 else "s"))
    if measured.get("device_name"):
        setting.append(str(measured["device_name"]))
    if measured.get("disturbed") is True:
        setting.append("while others used the device, also when repeated: may be too high")
    return {
        "low": figures.get("p20_ms"),
        "high": figures.get("p80_ms"),
        "runs": figures.get("num_runs"),
        "setting": ", ".join(setting),
    }


def _block_latency(run_dir: Path, key: str, record: TrialRecord) -> dict[str, Any] | None:
    """What `nas profile` measured of this network, if its JSON lies in profiles/<key>.json: milliseconds by block."""
    if not key.isalnum():
        return None
    try:
        measured = json.loads((run_dir / "profiles" / f"{key}.json").read_text(encoding="utf-8"))
        parts = {str(part["name"]): float(part["latency_ms"]) for part in measured["parts"]}
        stages = record.genotype["stages"]
        return {
            "stem": parts["stem"],
            "head": parts["head"],
            "stages": [[parts[f"stages.{i}.{j}"] for j in range(len(stage))] for i, stage in enumerate(stages)],
            "setting": f"{measured['device']}, {measured['resolution']} pixels, batch of {measured['batch_size']}",
        }
    except GARBLED:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace", encoding="utf-8")[-LONGEST_TRACE:]
    except OSError:
        return None


def _files(run_dir: Path, number: int) -> list[str]:
    """The files of a trial, relative to the run."""
    folder = run_dir / "checkpoints" / str(number)
    files = [record_path(run_dir, number), *(sorted(folder.rglob("*")) if folder.is_dir() else [])]
    return [str(path.relative_to(run_dir)) for path in files if path.is_file()]


def _evaluation(found: dict[str, Any]) -> dict[str, Any]:
    """Who judged the network, and what that took."""
    told = {name: str(found[name]) for name in ("evaluator", "score") if name in found}
    return told | {"seconds": float(found["seconds"]), "epochs": int(found["epochs"])}
