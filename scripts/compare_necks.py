"""Which operator serves a detector's neck? Small RetinaNets on scattered digits, each operator for equal epochs.

Usage: compare_necks.py [--slots conv/conv,involution/conv] [--seeds 3] [--epochs 10] [--out FILE]
       compare_necks.py --report FILE

NECK/HEAD are operators of `nas.bench.necks`. The file (results/operators/necks.jsonl) grows by whole lines and a later
call goes on where an earlier one ended. Needs opnas[dense].
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

from nas.bench.necks import OPERATORS, train_detector

SLOTS = "conv/conv,involution/conv,gnconv/conv,involution/involution,gnconv/gnconv"


def run(options: argparse.Namespace) -> None:
    path: Path = options.out
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"epochs": options.epochs, "scenes": options.scenes}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if lines and json.loads(lines[0]) != header:
        sys.exit(f"{path}: of other epochs or scenes; name another file, or remove it")
    done = {(row["neck"], row["head"], row["seed"]) for row in map(json.loads, lines[1:])}
    pairs = [tuple(pair.split("/")) for pair in options.slots.split(",")]
    for pair in pairs:
        if len(pair) != 2 or not {*pair} <= OPERATORS.keys():
            sys.exit(f"--slots: {'/'.join(pair)}: allowed is NECK/HEAD, each one of {', '.join(OPERATORS)}")
    with path.open("a", encoding="utf-8") as file:
        if not lines:
            print(json.dumps(header), file=file, flush=True)
        tasks = [(*pair, seed) for seed in range(options.seeds) for pair in pairs if (*pair, seed) not in done]
        for neck, head, seed in tqdm(tasks, unit="training"):
            begin = time.process_time()
            found = train_detector(neck, head, seed, options.epochs, options.scenes)
            seconds = {"cpu_seconds": round(time.process_time() - begin, 1)}
            print(json.dumps({"neck": neck, "head": head, "seed": seed} | found | seconds), file=file, flush=True)


def report(path: Path) -> str:
    header, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [
        f"{header['scenes']} scenes, {header['epochs']} epochs; box AP in %, mean (worst to best)",
        "",
        "| neck | head | trainings | AP | AP at IoU 0.5 | parameters | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    by_pair: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_pair.setdefault((row["neck"], row["head"]), []).append(row)
    for (neck, head), found in by_pair.items():
        kept = [row for row in found if row["box_ap"] is not None]
        cells = [_spread([100 * row[name] for row in kept]) for name in ("box_ap", "box_ap50")]
        failed = f", {len(found) - len(kept)} failed" if len(kept) < len(found) else ""
        params = kept[0]["num_params"] if kept else "-"
        seconds = round(mean(row["cpu_seconds"] for row in found))
        lines.append(f"| {neck} | {head} | {len(found)}{failed} | {cells[0]} | {cells[1]} | {params:,} | {seconds} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default=SLOTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("results/operators/necks.jsonl"))
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    if chosen.report is None:
        run(chosen)
    print(report(chosen.report or chosen.out))
