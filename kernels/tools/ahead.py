"""Ahead of time: compiles launches for GPUs that are not there, and reads what the machine code needs.

Registers, spilled bytes, shared memory, kinds of instructions, and instructions, loops counted: per warp, and per value
of the result. Waves: programs over those that fit on the GPU at once.

python -m kernels.ahead [--target sm_90] [--dtype bfloat16] [--op NAME] [--out FILE.json] [--seconds 200]
compiles what `kernels.tools.shipped` lists; exit code 1 when a launch for an NVIDIA GPU spills, wants too much memory,
or multiplies matrices without the instructions for it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .._core.launch import Launch
from ..operations import OPERATIONS
from . import shipped
from .compiling import Sent, received, sent

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {
    name: kilobytes * 1024
    for name, kilobytes in {"sm_80": 163, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}.items()
}
GPUS = {  # multiprocessors of the GPU that a target is known by; most warps and programs of one
    "sm_80": (108, 64, 32),  # A100
    "sm_89": (128, 48, 24),  # RTX 4090
    "sm_90": (132, 64, 32),  # H200
    "sm_100": (148, 64, 32),  # B200
    "sm_120": (170, 48, 24),  # RTX 5090
}
REGISTERS = 65536  # of a multiprocessor, given to warps in units
REGISTER_UNIT = 8  # per thread
SHARED_MORE = 1024  # bytes that a program takes besides its own
MATRIX = re.compile(r"\b(HGMMA|HMMA|QGMMA|DMMA|UTCHMMA|UTCQMMA|v_mfma)\w*")
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
}
MATRIX_KERNELS = {name for operation in OPERATIONS.values() for name in operation.matrix_kernels}
KEY = ("case", "pass", "phase", "dtype", "target")  # what tells rows of the report apart
WARP = 32  # threads
ALIGNED = 16  # bytes; what Triton looks for in addresses and integers


@dataclass(frozen=True)
class Report:
    """What one launch needs on one target; `instructions` per warp, None where the code could not be read."""

    kernel: str
    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    num_warps: int
    matrix_instructions: int
    instructions: int | None = None
    kinds: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)


def compile_launch(launch: Launch, target: str, trips: int = 1) -> Report:
    """Compiles `launch` (its tensors may be on any device, meta too) for one of TARGETS.

    `trips` is how often its loop runs. Raises ValueError for an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"target = {target!r}: allowed is one of {', '.join(TARGETS)}")
    if target.startswith("gfx") and launch.constants.get("PRECISION") == "tf32x3":  # which is NVIDIA's alone
        launch = replace(launch, constants={**launch.constants, "PRECISION": "ieee"})
    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        compiled = triton.compile(_source(launch), target=TARGETS[target], options=launch.options)
    read = _amd if target.startswith("gfx") else _nvidia
    return read(launch, target, compiled, log.getvalue(), trips)


def per_value(launch: Launch, report: Report, values: int) -> float | None:
    """Instructions of threads for each of `values`, None where the code could not be read."""
    if report.instructions is None:
        return None
    return math.prod(launch.grid) * report.num_warps * WARP * report.instructions / values


def waves(launch: Launch, report: Report) -> float | None:
    """Programs over those that an NVIDIA GPU holds at once."""
    if report.target not in GPUS:
        return None
    multiprocessors, most_warps, most_programs = GPUS[report.target]
    registers = -(-report.registers // REGISTER_UNIT) * REGISTER_UNIT * WARP * report.num_warps
    resident = min(REGISTERS // registers, most_warps // report.num_warps, most_programs)
    # a program may have all but SHARED_MORE of a multiprocessor's memory
    resident = min(resident, (SHARED_LIMIT[report.target] + SHARED_MORE) // (report.shared_bytes + SHARED_MORE))
    return math.prod(launch.grid) / (multiprocessors * resident)


def _source(launch: Launch) -> ASTSource:
    names = launch.kernel.arg_names
    constants = {**launch.constants, **{n: None for n, v in launch.arguments.items() if v is None}}
    signature, attributes = {}, {}
    for index, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = launch.arguments[name]
        assert value is not None
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            if value.storage_offset() * value.element_size() % ALIGNED == 0:
                attributes[(index,)] = [["tt.divisibility", ALIGNED]]
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % ALIGNED == 0:
                attributes[(index,)] = [["tt.divisibility", ALIGNED]]
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)


def _nvidia(launch: Launch, target: str, compiled, log: str, trips: int) -> Report:
    registers = max((int(n) for n in re.findall(r"Used (\d+) registers", log)), default=0)
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill stores", log))
    lines, loops = _disassemble(compiled.asm["cubin"])
    inner = sum(end - start + 1 for start, end in loops)
    kinds = Counter(_mnemonic(line) for start, end in loops for line in lines[start : end + 1])
    return Report(
        launch.kernel.__name__,
        target,
        registers,
        spilled,
        compiled.metadata.shared,
        launch.num_warps,
        sum(bool(MATRIX.search(line)) for line in lines),
        len(lines) + (trips - 1) * inner if lines else None,
        dict(kinds.most_common(8)),
    )


def _amd(launch: Launch, target: str, compiled, log: str, trips: int) -> Report:
    code = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        return max((int(n) for n in re.findall(rf"\.{name}:\s+(\d+)", code)), default=0)

    spilled = 4 * number("vgpr_spill_count")
    matrix = len(MATRIX.findall(code))
    registers = number("vgpr_count")
    return Report(
        launch.kernel.__name__, target, registers, spilled, compiled.metadata.shared, launch.num_warps, matrix
    )


def _disassemble(cubin: bytes) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions in order, and (first, last) of each loop without a loop in it."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not tool.exists():
        return [], []
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True).stdout
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label.group(1)] = len(lines)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+([^;]+);", line):
            lines.append(instruction.group(1).strip())
    loops = []
    for at, line in enumerate(lines):
        jump = re.search(r"\bBRA\b.*?(\.L_x_\d+)", line)
        # the branch to itself behind the last instruction is no loop
        if jump and labels.get(jump.group(1), at) < at:
            loops.append((labels[jump.group(1)], at))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return lines, inner


def _mnemonic(line: str) -> str:
    words = line.split()
    return words[1] if words[0].startswith("@") else words[0]


def wrong(row: dict) -> str | None:
    """What is not as it must be in a row of `main`, None where all is; code for AMD is reported, not judged."""
    target = row["target"]
    if target.startswith("gfx"):
        return None
    if row["spilled_bytes"]:
        return f"{row['spilled_bytes']} bytes spilled"
    if row["shared_bytes"] > SHARED_LIMIT[target]:
        return f"{row['shared_bytes']} bytes of shared memory: {target} has {SHARED_LIMIT[target]}"
    if row["kernel"] in MATRIX_KERNELS and row["dtype"] != "float32" and not row["matrix_instructions"]:
        return "no matrix instructions"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], action="append")
    parser.add_argument("--op", choices=sorted(OPERATIONS), action="append")
    parser.add_argument("--out", type=Path, help="goes on where this file ends")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after the launch that passes this")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    found = _begun(args.out)
    done = {tuple(row[name] for name in KEY) for row in found["rows"]}
    left = 0
    for problem, values, launch, report in _compiled([case for case in _cases(args) if case[0] not in done], end):
        if report is None:
            left += 1
            continue
        row = _row(problem, values, launch, report)
        found["rows"].append(row)
        words = f"{report.registers} registers, {report.spilled_bytes} bytes spilled"
        print(*problem, words, wrong(row) or "", file=sys.stderr)
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not args.out:
        print(json.dumps(found, indent=1))
    bad = [row for row in found["rows"] if wrong(row)]
    print(f"{len(found['rows'])} compiled, {left} left, {len(bad)} not as they must be", file=sys.stderr)
    sys.exit(1 if bad else 0)


def _begun(out: Path | None) -> dict:
    """What the report has so far; ends where another version of Triton wrote it."""
    if out is None or not out.exists():
        return {"triton": triton.__version__, "torch": torch.__version__, "rows": []}
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["triton"] != triton.__version__:
        sys.exit(f"{out}: was written with triton {found['triton']}, this is {triton.__version__}")
    return found


def _row(problem: tuple, values: int, launch: Launch, report: Report) -> dict:
    tile = {n: v for n, v in launch.constants.items() if n.startswith("BLOCK_") or n in ("ROWS", "PARTS")}
    counted = {"instructions_per_value": per_value(launch, report, values), "waves": waves(launch, report)}
    rounded = {name: count and float(f"{count:.4g}") for name, count in counted.items()}
    return {**dict(zip(KEY, problem, strict=True)), "tile": tile, **report.to_json(), **rounded}


def _compiled(cases: list[tuple], end: float) -> Iterator[tuple[tuple, int, Launch, Report | None]]:
    """Of each of `_cases` its name, values, launch and report, None for those not begun at `end`; by as many processes
    as there are cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        under_way = [
            (problem, values, launch, pool.submit(_compile_sent, sent(launch), target, trips))
            for problem, target, values, launch, trips in cases
        ]
        for problem, values, launch, future in under_way:
            if time.monotonic() > end:
                for *_, later in under_way:
                    later.cancel()
            yield problem, values, launch, None if future.cancelled() else future.result()


def _compile_sent(launch: Sent, target: str, trips: int) -> Report:
    return compile_launch(received(launch), target, trips)


def _cases(args) -> Iterator[tuple[tuple, str, int, Launch, int]]:
    """What names a launch in the report, its target, the values of its result, the launch, the trips of its loop."""
    for dtype in args.dtype or ["bfloat16", "float16", "float32"]:
        for target in args.target or list(TARGETS):
            for shape in shipped.SHAPES:
                if args.op and shape.op not in args.op:
                    continue
                phases: Counter = Counter()  # of a pass that is several launches
                values = shape.images * shape.channels * ((shape.size - 1) // shape.stride + 1) ** 2
                for pass_name, launch, trips in shipped.launches(shape, getattr(torch, dtype)):
                    named = (shape.name, pass_name, phases[pass_name], dtype, target)
                    yield named, target, values, launch, trips
                    phases[pass_name] += 1


if __name__ == "__main__":
    main()
