"""Does an operator lose for its start? Trains every operator in every slot that it fits, beside plain convolution.

Usage: check_operators.py [--dataset digits|cluttered_digits] [--epochs 8] [--seeds 3] [--stages first,last]
                          [--blocks basic,gated] [--labels conv3,inv7] [--depth 1] [--learning-rate 8e-3]
                          [--processes 2] [--out FILE]
       check_operators.py --report FILE

By the quick start's recipe. The file (results/operators/starts_DATASET_EPOCHS.jsonl) grows by whole lines and a later
call goes on where an earlier one ended. The report prints each slot's mean and worst accuracy beside the baseline's,
and what is outside the bounds: 3 points behind on average after 8 epochs (2 after 24), 8 in a single training, failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from nas.bench.starts import BLOCKS, Comparison, Slot, baseline, compare, slots, train_slot
from nas.config.reading import load_experiment
from nas.config.sections import ProxyConfig

QUICKSTART = Path(__file__).parent.parent / "search_spaces" / "quickstart.yaml"
SIDES = {"digits": 8, "cluttered_digits": 32}
MEAN_BOUND = {8: 3.0, 24: 2.0}
SINGLE_BOUND = 8.0


def recipe(options: argparse.Namespace) -> ProxyConfig:
    config, _ = load_experiment(QUICKSTART)
    changed = {"dataset": options.dataset, "epochs": options.epochs, "resolution": SIDES[options.dataset]}
    changed["max_images_per_class"] = None  # the quick start takes fewer, to keep within its minutes
    if options.learning_rate:
        changed["learning_rate"] = options.learning_rate
    if options.warmup_epochs is not None:
        changed["warmup_epochs"] = options.warmup_epochs
    return config.proxy.chosen({}).model_copy(update=changed)


def run(options: argparse.Namespace, path: Path) -> None:
    config = recipe(options)
    header = {"proxy": config.model_dump(mode="json"), "depth": options.depth}
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read(path) if path.exists() else [header]
    made = ProxyConfig.model_validate_json(json.dumps(rows[0]["proxy"]))  # an earlier version had fewer settings
    if (made, rows[0]["depth"]) != (config, options.depth):
        sys.exit(f"{path}: made by another recipe or depth; name another file, or remove it")
    done = {(Slot(**row["slot"]), row["seed"]) for row in rows[1:]}
    chosen = [slot for slot in slots(tuple(options.stages.split(","))) if slot.block in options.blocks.split(",")]
    if options.labels:
        chosen = [slot for slot in chosen if slot.label in (baseline(slot.block), *options.labels.split(","))]
    tasks = [(slot, seed) for seed in range(options.seeds) for slot in chosen if (slot, seed) not in done]
    cache = path.parent.parent / ".cache"
    with path.open("a", encoding="utf-8") as file, ProcessPoolExecutor(options.processes) as pool:
        if not done:
            print(json.dumps(header), file=file, flush=True)
        work = {pool.submit(train_slot, slot, config, seed, cache, options.depth): (slot, seed) for slot, seed in tasks}
        for future in tqdm(as_completed(work), total=len(work), unit="training", mininterval=10):
            slot, seed = work[future]
            curve = future.result()
            row = {"slot": asdict(slot), "seed": seed} | (
                {"error": curve} if isinstance(curve, str) else {"top1": curve}
            )
            print(json.dumps(row), file=file, flush=True)
            os.fsync(file.fileno())


def read(path: Path) -> list[dict]:
    """The rows of a file, its header first; a last line that was cut is left out."""
    whole = path.read_bytes()
    os.truncate(path, whole.rfind(b"\n") + 1)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report(path: Path) -> bool:
    """Print the table; whether all is within the bounds."""
    header, *rows = read(path)
    results: dict[Slot, list[float | None]] = {}
    for row in rows:
        results.setdefault(Slot(**row["slot"]), []).append(row["top1"][-1] if "top1" in row else None)
    epochs = header["proxy"]["epochs"]
    print(f"{header['proxy']['dataset']}, {epochs} epochs, top1 in %: mean (worst), points behind the baseline\n")
    print("| operator | block | stage | trainings | mean | worst | behind |\n|---|---|---|---|---|---|---|")
    compared = sorted(compare(results), key=lambda found: -found.behind)
    for found in compared:
        slot, count = found.slot, len(results[found.slot])
        print(
            f"| {slot.label} | {slot.block} | {slot.stages} | {count} | {found.mean:.1f} | {found.worst:.1f} "
            f"| {found.behind:+.1f} |"
        )
    outside = [text for found in compared if (text := outside_of(found, MEAN_BOUND.get(epochs)))]
    print(f"\n{sum(map(len, results.values()))} trainings; outside the bounds: {len(outside) or 'none'}")
    print("\n".join(outside))
    return not outside


def outside_of(found: Comparison, mean_bound: float | None) -> str:
    """What of a slot is outside the bounds, in words; "" where nothing is."""
    reasons = []
    if found.num_failed:
        reasons.append(f"{found.num_failed} failed")
    if mean_bound is not None and found.behind > mean_bound:
        reasons.append(f"{found.behind:.1f} points behind on average")
    if found.baseline - found.worst > SINGLE_BOUND:
        reasons.append(f"{found.baseline - found.worst:.1f} points behind in one training")
    return f"{found.slot.label} in {found.slot.block}, {found.slot.stages}: {', '.join(reasons)}" if reasons else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=SIDES, default="digits")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", default="first,last")
    parser.add_argument("--blocks", default=",".join(BLOCKS))
    parser.add_argument("--labels", help="only these operators, and the baseline")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--warmup-epochs", type=float, help="likewise")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    if chosen.report is None:
        out = chosen.out or Path(f"results/operators/starts_{chosen.dataset}_{chosen.epochs}.jsonl")
        run(chosen, out)
        chosen.report = out
    sys.exit(0 if report(chosen.report) else 1)
