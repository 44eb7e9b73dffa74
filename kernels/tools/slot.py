"""What a GPU that is lent for some minutes is asked, what matters most first, with torch and triton alone.

python -m kernels.tools.slot --seconds 420 --out DIR
First every kernel on small shapes against float64, while a pool of processes compiles the others; then times, operation
by operation in the order of `kernels.operations`; then two networks, where opnas with its dependencies is there; last
what torch.compile makes of PyTorch's own forms. Each operation has a process of its own with a limit: a faulted GPU
stays faulted, and a kernel may hang. DIR/rows.jsonl has a line per case as it is measured, whatever went wrong among
them; DIR/<gpu>.json is a table that `OPNAS_KERNELS=auto` reads in kernels/tables/; DIR/log.txt is what processes said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from .._core import dispatch
from .._core.launch import interpreted
from .._core.operation import Shape
from ..operations import OPERATIONS
from .rows import floor_ms, in_words, time_forms, versions
from .shipped import launches
from .timing import Times, ceilings, time_calls
from .work import Work, works

SIDE_BY_SIDE = 4  # processes that check values, which need no GPU of their own
MOST_SHAPES = 4  # of an operation
COMMAND = (sys.executable, "-m", __spec__.name)
LIMITS = {"compile": 150.0, "ceilings": 40.0, "check": 90.0, "time": 60.0, "networks": 150.0, "compiled": 60.0}


@dataclass(frozen=True)
class Plan:
    """What the processes are told: where rows go, on which device, `tiny` shapes with a clock that stands still."""

    out: Path
    device: str = "cuda"
    tiny: bool = False

    @property
    def rows(self) -> Path:
        return self.out / "rows.jsonl"

    @property
    def options(self) -> list[str]:
        return ["--out", str(self.out), "--device", self.device, *(["--tiny"] if self.tiny else [])]


def run(plan: Plan, seconds: float, command: Sequence[str], limits: dict[str, float] = LIMITS) -> None:
    """All stages within `seconds`; `command` starts a process of this program."""
    end = time.monotonic() + seconds
    plan.out.mkdir(parents=True, exist_ok=True)

    def stage(name: str, op: str = "") -> None:
        limit = min(limits[name], end - time.monotonic())
        if limit < 1:
            _append(plan, {"stage": name, "op": op, "error": "no time left"})
            return
        error = _child([*command, *plan.options, "--stage", name, *(["--op", op] if op else [])], plan, limit)
        if error:
            _append(plan, {"stage": name, "op": op, "error": error})

    stage("ceilings")
    with ThreadPoolExecutor(SIDE_BY_SIDE + 1) as pool:
        side_by_side = [pool.submit(stage, "compile"), *(pool.submit(stage, "check", op) for op in OPERATIONS)]
        for done in side_by_side:
            done.result()
    for op in OPERATIONS:
        stage("time", op)
        _write_table(plan)
    if not plan.tiny:
        stage("networks")
        for op in OPERATIONS:
            stage("compiled", op)


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the dispatcher reads, from rows of the stage `time`: of each case our fastest tile and PyTorch's form."""
    entries = []
    key = ("op", "pass", "dtype", "images", "channels", "size", "kernel", "stride", "form")
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["stage"] == "time" and "median_ms" in row and not row["tf32"]:
            cases.setdefault(json.dumps([row["case"][name] for name in key]), []).append(row)
    for found in cases.values():
        aten = [row["median_ms"] for row in found if row["plain"]]
        ours = [row for row in found if "config" in row]
        if aten and ours:
            best = min(ours, key=lambda row: row["median_ms"])
            times = {"triton_ms": best["median_ms"], "aten_ms": aten[0], "config": best["config"]}
            entries.append({**{name: best["case"][name] for name in key}, **times})
    about = next((row for row in rows if row["stage"] == "ceilings" and "environment" in row), {})
    return {"environment": about.get("environment", {}), "entries": entries}


def _child(command: list[str], plan: Plan, limit: float) -> str | None:
    """Run a process in a group of its own; what went wrong in words, None where it ended well."""
    log = plan.out / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            file.write(process.communicate()[1])
            return f"stopped after {limit:.0f} s"
        file.write(errors)
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    last = errors.strip().splitlines()[-1:] or [f"ended with {process.returncode}"]
    return last[0][:300] if process.returncode else None


def _append(plan: Plan, row: dict[str, Any]) -> None:
    """One line, in one write, so that lines of processes side by side do not mix."""
    with plan.rows.open("ab", buffering=0) as file:
        file.write(json.dumps(row).encode() + b"\n")


def _read(plan: Plan) -> list[dict[str, Any]]:
    text = plan.rows.read_text(encoding="utf-8") if plan.rows.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _write_table(plan: Plan) -> None:
    rows = _read(plan)
    name = next((row["table"] for row in rows if "table" in row), "unknown")
    part = plan.out / f"{name}.part"
    part.write_text(json.dumps(table(rows), indent=1) + "\n", encoding="utf-8")
    part.replace(plan.out / f"{name}.json")


def _ceilings(plan: Plan, op: str) -> None:
    device = torch.device(plan.device)
    about = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", **versions(device)}
    _append(plan, {"stage": "ceilings", "op": op, "table": dispatch.gpu_name(device), "environment": about})
    _append(plan, {"stage": "ceilings", "op": op, **ceilings(device)})


def _compile(plan: Plan, op: str) -> None:
    """Into Triton's cache, from which the processes that measure take it."""
    if interpreted():
        return
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        started = {pool.submit(_compile_shape, shape): shape for shape in _shapes(plan)}
        for done in as_completed(started):
            if error := done.exception():
                shape = started[done]
                _append(plan, {"stage": "compile", "op": shape.op, "case": shape.name, "error": in_words(error)})  # pyright: ignore[reportArgumentType]


def _compile_shape(shape: Shape) -> None:
    for _, launch, _ in launches(shape, torch.bfloat16):
        launch.compile()


def _check(plan: Plan, op: str) -> None:
    _forms(plan, "check", OPERATIONS[op].tiny, ("float32",) if interpreted() else ("bfloat16", "float32"))


def _time(plan: Plan, op: str) -> None:
    _forms(plan, "time", _shapes(plan, op), ("float32",) if interpreted() else ("bfloat16",))


def _compiled(plan: Plan, op: str) -> None:
    _forms(plan, "compiled", _shapes(plan, op), ("bfloat16",))


def _networks(plan: Plan, op: str) -> None:
    """By the command, so that its modules need not be there."""
    seconds = str(LIMITS["networks"] - 10)
    out = ["--out", str(plan.out / "networks.json"), "--device", plan.device, "--seconds", seconds]
    command = [sys.executable, "-m", "nas.cli", "bench", "kernels", "--suite", "slot", "--no-compile", *out]
    os.execv(sys.executable, command)


def _shapes(plan: Plan, op: str | None = None) -> tuple[Shape, ...]:
    """Those that are timed."""
    of = [OPERATIONS[op]] if op else OPERATIONS.values()
    return tuple(s for each in of for s in (each.tiny if plan.tiny else each.shapes[:MOST_SHAPES]))


def _forms(plan: Plan, stage: str, shapes: tuple[Shape, ...], dtypes: tuple[str, ...]) -> None:
    device = torch.device(plan.device)
    torch.manual_seed(0)
    top = next((row for row in _read(plan) if "copy_gbps" in row), None)
    clock = None if stage == "check" else _still if plan.tiny else time_calls
    for work in works(shapes, dtypes, device):
        forms, tiles = _asked(work, stage)
        for row in time_forms(work, forms, device, floor_ms(work, top) if top else 0.0, clock):
            more: dict[str, Any] = {"plain": forms[row["form"]] is work.plain, "case": work.key}
            more |= {"config": tiles[row["form"]]} if row["form"] in tiles else {}
            _append(plan, {"stage": stage, **row, **more})


def _asked(work: Work, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The forms that a stage runs, and the tile of each that is our kernel."""
    if stage == "compiled":
        return {"torch_compile": torch.compile(work.plain)} if work.pass_name == "forward" else {}, {}
    forms: dict[str, Any] = dict(work.forms)
    tiles: dict[str, Any] = {"triton": {}} if "triton" in forms else {}
    tile = OPERATIONS[work.shape.op].tile
    if stage == "time" and tile and tiles and work.pass_name == "forward":
        ours = work.forms["triton"]
        forms["triton_tile"], tiles["triton_tile"] = lambda *t: ours(*t, config=tile), tile
    return forms, tiles


def _still(calls, device: torch.device) -> Times:
    """A clock for a rehearsal: runs the work once and says a millisecond."""
    calls[0]()
    return Times(1.0, 1.0, 1.0, 0.0, 1)


STAGES = {
    "compile": _compile,
    "ceilings": _ceilings,
    "check": _check,
    "time": _time,
    "networks": _networks,
    "compiled": _compiled,
}


def main(command: Sequence[str] = COMMAND, limits: dict[str, float] = LIMITS) -> None:
    """`command` starts a process of this program, `limits` are the seconds of each stage's processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: small shapes, and a clock that stands still")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--op", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    plan = Plan(args.out, args.device, args.tiny)
    if args.stage:
        STAGES[args.stage](plan, args.op)
        return
    run(plan, args.seconds, command, limits)
    rows = _read(plan)
    wrong = [row for row in rows if "error" in row]
    for row in wrong:
        print(row["stage"], row.get("op", ""), row.get("form", ""), row["error"], file=sys.stderr)
    print(f"{len(rows)} rows in {plan.rows}, {len(wrong)} with an error", file=sys.stderr)


if __name__ == "__main__":
    main()
