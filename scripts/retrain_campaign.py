"""Retraining, disturbed and measured. Usage: retrain_campaign.py kills|damage|team|estimate|accuracy [N] [--out FILE]

kills: SIGKILLs one training N times, each life with another number of loader workers, and compares its end with that of
an undisturbed one: weights, statistics of batch norms, average, optimizer.
damage: cuts or flips a bit of the newest checkpoint N times; what is then read must be the one before.
team: N trainings in two processes by `nas retrain`, one process of each SIGKILLed; the seconds to the next checkpoint.
estimate: `nas retrain --dry-run` before and after a training of N epochs, against what it took.
accuracy: a network of each operator alone, N epochs on the digits; accuracy on the 300 that were held out.
Prints JSON, or writes it to FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from nas.base.machine import processor
from nas.retrain.worker import train_worker
from nas.space import specs
from nas.space.genotype import Genotype
from nas.training.checkpoint import load_checkpoint, save_checkpoint
from nas.training.process_group import ProcessGroup

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers.retrainings import OPERATORS, kills, mixed_network, newest, planned, with_silence, write_digits

NAS = [sys.executable, "-m", "nas.cli"]


def damage(folder: Path, count: int) -> dict[str, Any]:
    settings = {"dataset": "digits", "epochs": 1, "batch_size": 64, "resolution": 8, "augment": "shift", "ema": 0.9}
    job = planned(folder, mixed_network(), settings)
    with_silence(lambda: train_worker(job, ProcessGroup()))
    checkpoints = Path(job.folder) / "checkpoints"
    state = load_checkpoint(checkpoints)
    assert state is not None
    path = save_checkpoint(checkpoints, state | {"fingerprint": "newest"})
    content, draw, seconds, found = path.read_bytes(), random.Random(0), [], 0
    for number in range(count):
        if number % 3:
            damaged = bytearray(content)
            bit = draw.randrange(8 * len(content))
            damaged[bit // 8] ^= 1 << bit % 8
        else:
            damaged = content[: draw.randrange(len(content))]
        path.write_bytes(damaged)
        begin = time.perf_counter()
        got = load_checkpoint(checkpoints)
        seconds.append(time.perf_counter() - begin)
        found += got is not None and got["fingerprint"] == state["fingerprint"]
    path.write_bytes(content)
    intact = load_checkpoint(checkpoints)
    assert intact is not None and intact["fingerprint"] == "newest"
    return {
        "damaged": count,
        "previous_used": found,
        "checkpoint_bytes": len(content),
        "load_ms": {"median": 1e3 * statistics.median(seconds), "max": 1e3 * max(seconds)},
    }


def team(folder: Path, count: int) -> dict[str, Any]:
    import psutil

    settings = {"dataset": "digits", "epochs": 4, "batch_size": 64, "resolution": 8, "augment": "shift", "ema": 0.9}
    draw, seconds, finished, restarts = random.Random(0), [], 0, 0
    for number in range(count):
        root = folder / str(number)
        root.mkdir(parents=True)
        (root / "network.json").write_text(mixed_network().to_json(), encoding="utf-8")
        options = [part for name, value in settings.items() for part in ("--set", f"retrain.{name}={value}")]
        command = [*NAS, "retrain", "--genotype", "network.json", "--devices", "2", *options]
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        checkpoints = root / "results/retrained/retrain" / mixed_network().key / "checkpoints"
        while newest(checkpoints) < 2:  # the first is written before the first step
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        before, began = newest(checkpoints), time.monotonic()
        psutil.Process(process.pid).children()[number % 2].kill()
        while newest(checkpoints) <= before and process.poll() is None:
            time.sleep(0.01)
        seconds.append(time.monotonic() - began)
        _, error = process.communicate()
        restarts += error.count("starting all anew")
        finished += process.returncode == 0
    return {
        "trainings": count,
        "finished": finished,
        "restarts": restarts,
        "seconds_from_kill_to_next_checkpoint": {"median": statistics.median(seconds), "all": seconds},
    }


def estimate(folder: Path, epochs: int) -> dict[str, Any]:
    images = write_digits(folder / "images", per_class=180, side=48)
    settings = {
        "dataset": "imagefolder",
        "epochs": epochs,
        "batch_size": 64,
        "resolution": 32,
        "augment": "crop_flip",
        "ema": 0.99,
    }
    (folder / "network.json").write_text(mixed_network(width=32).to_json(), encoding="utf-8")
    options = [part for name, value in settings.items() for part in ("--set", f"retrain.{name}={value}")]
    command = [
        *NAS,
        "retrain",
        "--genotype",
        "network.json",
        "--devices",
        "1",
        "--data",
        str(images),
        "--json",
        *options,
    ]

    def run(*more: str) -> tuple[dict[str, Any], float]:
        begin = time.monotonic()
        done = subprocess.run([*command, *more], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout), time.monotonic() - begin

    before, _ = run("--dry-run")
    summary, wall = run()
    after, _ = run("--dry-run")
    foretold = [3600 * found["hours"] for found in (before, after)]
    return {
        "epochs": epochs,
        "estimated_s": {"before": foretold[0], "after": foretold[1]},
        "training_s": summary["seconds"],
        "command_s": wall,
        "before_over_training": foretold[0] / summary["seconds"],
        "mean_over_training": statistics.mean(foretold) / summary["seconds"],
        "wait_share": before["wait_share"],
    }


def accuracy(folder: Path, epochs: int) -> dict[str, Any]:
    settings = {
        "dataset": "digits",
        "epochs": epochs,
        "batch_size": 64,
        "resolution": 8,
        "augment": "shift",
        "learning_rate": 4e-3,
        "ema": 0.99,
    }
    rows = {}
    for name, operator in OPERATORS.items():
        genotype = single_operator_network(operator)
        job = replace(planned(folder, genotype, settings), num_threads=1)
        begin = time.monotonic()
        summary = with_silence(lambda job=job: train_worker(job, ProcessGroup()))
        rows[name] = {
            "top1": summary["top1"],
            "wrong_of_300": round(300 * (1 - summary["top1"])),
            "seconds": time.monotonic() - begin,
        }
        print(name, rows[name], file=sys.stderr, flush=True)
    return {"epochs": epochs, "settings": settings, "seed": job.seed, "networks": rows}


CAMPAIGNS: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "kills": (kills, 20),
    "damage": (damage, 300),
    "team": (team, 10),
    "estimate": (estimate, 12),
    "accuracy": (accuracy, 20),
}


def single_operator_network(operator: Any) -> Genotype:
    """Two blocks with one operator: gnConv in its own block, the others in ResNet's."""
    stages = []
    sizes: list[tuple[int, Literal[1, 2]]] = [(32, 1), (64, 2)]
    for width, stride in sizes:
        if isinstance(operator, specs.GnConv):
            block = specs.Gated(width=width, operator=operator, stride=stride, layer_scale=1.0)
        else:
            block = specs.Basic(width=width, operator=operator, stride=stride)
        stages.append((block,))
    return Genotype(stem=specs.Stem(kind="small", width=32), stages=tuple(stages))


def environment() -> dict[str, Any]:
    return {
        "processor": f"{os.cpu_count()} x {processor()}",
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("count", type=int, nargs="?")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    campaign, usual = CAMPAIGNS[args.campaign]
    count = usual if args.count is None else args.count
    before, begin = environment(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="opnas-retrain-") as folder:
        found = campaign(Path(folder), count)
    result = {
        "command": f"scripts/retrain_campaign.py {args.campaign} {count}",
        "environment": before | {"load_average_after": os.getloadavg()[0]},
        "seconds": time.monotonic() - begin,
        **found,
    }
    text = json.dumps(result, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
