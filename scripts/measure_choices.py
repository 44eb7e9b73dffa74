"""40 calls on one CPU core: the form that is chosen by measurement against the rule's, the published and the best one.

taskset -c 1 python scripts/measure_choices.py results/kernels/cpu_choices.json
Every form is timed again after the choice, in rounds in which the forms take turns. `behind_best` is the chosen form's
time over the best one's, the median of the rounds, with its 20th and 80th percentile.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas.kernels._core.forms import Forms, noted
from nas.kernels.odconv2d import reference as published_odconv
from nas.kernels.tools.choosing import FORMS, fastest
from nas.measure.choices import describe_device

ROUNDS, SAMPLE_SECONDS = 15, 4e-3
INVOLUTIONS = (  # images, channels, size, kernel
    *((1, 16, 8, 3), (1, 32, 8, 3), (1, 32, 4, 3), (1, 16, 8, 7), (1, 64, 14, 7), (1, 64, 32, 7), (1, 128, 16, 7)),
    *((1, 256, 7, 7), (64, 16, 8, 3), (64, 32, 4, 3), (64, 16, 8, 7), (8, 64, 14, 7), (8, 256, 7, 7), (1, 64, 56, 7)),
    *((4, 32, 32, 3), (1, 32, 28, 3)),
)
FILTERS = (  # images, channels, size
    *((1, 16, 8), (1, 32, 14), (1, 120, 14), (16, 120, 14), (64, 120, 14), (64, 32, 8), (16, 32, 8), (8, 64, 7)),
    *((64, 64, 7), (1, 240, 7), (64, 240, 7), (64, 64, 16)),
)
DYNAMIC = (  # images, channels, size, kernel; of four kernels each
    *((1, 16, 8, 3), (1, 64, 14, 3), (1, 128, 7, 3), (8, 64, 14, 3), (16, 64, 28, 3), (16, 128, 14, 3)),
    *((16, 128, 7, 3), (64, 16, 8, 3), (64, 32, 4, 3), (64, 32, 8, 3), (16, 256, 7, 3), (8, 64, 14, 1)),
)


def calls() -> list[tuple[str, Forms, tuple, dict[str, Callable]]]:
    """Name, forms, arguments of each call, and what is timed besides."""
    found: list[tuple[str, Forms, tuple, dict[str, Callable]]] = []
    for n, c, size, k in INVOLUTIONS:
        tensors = torch.randn(n, c, size, size), torch.randn(n, max(1, c // 16), k, k, size, size)
        arguments = (*tensors, (1, 1), (k // 2, k // 2), (1, 1))
        found.append((f"involution {n}x{c}x{size}x{size} K={k}", FORMS["involution"], arguments, {}))
    for n, c, size in FILTERS:
        arguments = (torch.randn(n, c, size, size), torch.randn(c, size, size // 2 + 1, 2), None)
        found.append((f"global filter {n}x{c}x{size}x{size}", FORMS["global_filter"], arguments, {}))
    for n, c, size, k in DYNAMIC:
        spatial = torch.rand(n, 1, 1, 1, k, k) if k > 1 else None
        arguments = (torch.randn(n, c, size, size), torch.randn(4, c, c, k, k), spatial, torch.rand(n, 4, 1, 1, 1, 1))
        arguments = (*arguments, (1, 1), (k // 2, k // 2), (1, 1), 1)

        def published(x, weight, spatial, kernel, *geometry):
            return published_odconv.odconv2d(x, weight, None, None, spatial, kernel, *geometry)

        found.append((f"odconv {n}x{c}x{size}x{size} K={k}", FORMS["odconv2d"], arguments, {"published": published}))
    return found


PUBLISHED = {"involution": "unfold", "global_filter": "fft", "odconv2d": "published"}


@torch.no_grad()
def row(name: str, forms: Forms, arguments: tuple, others: dict[str, Callable]) -> dict[str, Any]:
    with noted() as cases:
        forms(*arguments)
    ((case, rule),) = cases.items()
    chosen = fastest(case, rule).form
    runs = {**forms.forms, **others}
    times: dict[str, list[float]] = {form: [] for form in runs}
    once = {form: min(timed(run, arguments, 1) for _ in range(2)) for form, run in runs.items()}
    for turn in range(ROUNDS):
        order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for form in order:
            times[form].append(timed(runs[form], arguments, max(1, round(SAMPLE_SECONDS / once[form]))))
    medians = {form: statistics.median(seconds) for form, seconds in times.items()}
    best, published = min(medians, key=lambda form: medians[form]), PUBLISHED[forms.name]
    return {
        "call": name,
        "rule": rule,
        "chosen": chosen,
        "best": best,
        "milliseconds": {form: round(1e3 * seconds, 4) for form, seconds in medians.items()},
        "behind_best": over(times[chosen], times[best]),
        "rule_behind_best": over(times[rule], times[best]),
        "behind_published": over(times[chosen], times[published]),
    }


def over(ours: list[float], theirs: list[float]) -> list[float]:
    """20th percentile, median and 80th percentile of the rounds' ratios."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return [round(ratios[int(share * (len(ratios) - 1))], 3) for share in (0.2, 0.5, 0.8)]


def timed(run: Callable, arguments: tuple, calls: int) -> float:
    begin = time.thread_time()
    for _ in range(calls):
        run(*arguments)
    return max(1e-7, (time.thread_time() - begin) / calls)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begin = time.monotonic()
    rows = []
    for call in calls():
        rows.append(row(*call))
        print(rows[-1], file=sys.stderr)
    summary = {
        "calls": len(rows),
        "chosen_5_percent_behind_best": sum(each["behind_best"][0] > 1.05 for each in rows),
        "chosen_behind_published": sum(each["behind_published"][0] > 1.0 for each in rows),
        "rule_5_percent_behind_best": sum(each["rule_behind_best"][0] > 1.05 for each in rows),
        "mean_behind_best": round(math.exp(statistics.mean(math.log(r["behind_best"][1]) for r in rows)), 3),
        "mean_rule_behind_best": round(math.exp(statistics.mean(math.log(r["rule_behind_best"][1]) for r in rows)), 3),
        "worst_rule_behind_best": max(each["rule_behind_best"][1] for each in rows),
        "seconds": round(time.monotonic() - begin, 1),
    }
    about = describe_device(torch.device("cpu")) | {"threads": 1, "dtype": "float32", "rounds": ROUNDS, "seed": 0}
    out.write_text(json.dumps({"about": about, "summary": summary, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
