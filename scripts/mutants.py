"""How many small faults the tests notice: mutants.py [OUT.json] [PER_FILE] [SEED]

Each mutant is a copy of the package with one operator, comparison, constant, or call of min or max in one of FILES
turned into another, for which the tests named beside the file are run until the first that fails. Writes which mutants
all of them let through. NAMED are tried first, faults that tests once let through. Tests that fail without a fault end
it.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_SECONDS = 600
STREAMING = "crop or erased or uses_every or keyed_by_image or highest_magnitude or left_out or depend_on_workers"
OPERATORS = "not (extras or imports_torch or page or goes_on or resnet18 or compile or golden)"
FILES = {
    "nas/data/augment.py": ["tests/datasets/test_data.py", "-k", "shift or crop or flip"],
    "nas/data/streaming.py": ["tests/datasets/test_streaming.py", "tests/datasets/test_prepare.py", "-k", STREAMING],
    "nas/data/datasets.py": ["tests/datasets/test_data.py"],
    "nas/data/evaluation.py": ["tests/datasets/test_parts.py", "tests/deploy/test_counting.py"],
    "nas/data/images/imagenet_tars.py": ["tests/datasets/test_imagenet_tars.py"],
    "nas/deploy/counting.py": ["tests/deploy/test_counting.py"],
    "nas/training/mixing.py": ["tests/retrain/test_recipes.py", "-k", "mixing or losses or distillation"],
    "nas/training/schedule.py": [
        "tests/retrain/test_recipes.py",
        "tests/training/test_train.py",
        "-k",
        "rate or temper",
    ],
    **{
        f"nas/operators/{name}.py": ["tests/operators", "-k", OPERATORS]
        for name in ("layer", "odconv", "gnconv", "involution", "scconv", "replacing")
    },
    "nas/deploy/inference.py": [
        *("tests/deploy/test_counting.py", "tests/deploy/test_export.py", "tests/deploy/test_forms.py"),
        *("-k", "evaluate or predict or mistakes or scored or count or other_images"),
    ],
}
DRAWS = ["tests/training/test_train.py", "-k", "draws_anew"]
ERASED = ["tests/datasets/test_streaming.py", "-k", "erased"]
DROPPED = ["tests/networks/test_model.py", "-k", "drop_path"]
PREPARED = ["tests/datasets/test_reading.py", "-k", "as_timm"]
NAMED = [
    ("nas/data/images/reading.py", "math.floor(side / crop)", "math.floor(side * crop)", PREPARED),
    ("nas/networks/blocks.py", "return x * keep / (1 - self.rate)", "return x * keep", DROPPED),
    ("nas/data/streaming.py", "if draws.random() > probability:", "if draws.random() <= probability:", ERASED),
    ("nas/training/engine.py", "name = (step,)", "name = (0,)", DRAWS),
    ("nas/training/engine.py", 'self.seed, "step", *name)', 'self.seed, "step")', DRAWS),
    ("nas/training/engine.py", 'keyed_seed(self.seed, "mixup", *name)', 'keyed_seed(self.seed, "mixup")', DRAWS),
]
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
CALLS = {"min": "max", "max": "min"}


def main(out: str = "mutants.json", per_file: str = "8", seed: str = "0") -> None:
    for name in ("torch", "timm.data", "timm.optim", "timm.loss", "torchvision", "pytest", "sklearn.datasets"):
        __import__(name)  # here once, and not in each child
    draw, found = random.Random(int(seed)), []
    for file, tests in [*{" ".join(tests): (file, tests) for file, _, _, tests in NAMED}.values(), *FILES.items()]:
        if tried(file, "nothing", (ROOT / file).read_text(encoding="utf-8"), tests)["ended"] != "survived":
            sys.exit(f"{' '.join(tests)}: fails without a fault")
    for file, before, after, tests in NAMED:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert text.count(before) >= 1, (file, before)
        found.append(tried(file, f"{before} -> {after}", text.replace(before, after, 1), tests))
    for file, tests in FILES.items():
        every = list(mutants((ROOT / file).read_text(encoding="utf-8")))
        for what, text in draw.sample(every, min(int(per_file), len(every))):
            found.append(tried(file, what, text, tests))
    survivors = [entry for entry in found if entry["ended"] == "survived"]
    result = {
        "command": " ".join(["scripts/mutants.py", *sys.argv[1:]]),
        "tried": len(found),
        "noticed": len(found) - len(survivors),
        "survivors": survivors,
        "mutants": found,
    }
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """What was changed, and the changed text; docstrings, annotations and messages stay."""
    for index, node in enumerate(ast.walk(ast.parse(text))):
        for name in changes(node):
            tree = ast.parse(text)
            changed = next(other for number, other in enumerate(ast.walk(tree)) if number == index)
            old = ast.unparse(changed)
            apply(changed, name)
            yield f"line {getattr(node, 'lineno', 0)}: {old} -> {ast.unparse(changed)}", ast.unparse(tree)


def changes(node: ast.AST) -> list[str]:
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS and not isinstance(node.op, ast.BitOr):
        return ["op"]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        return ["ops"]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return ["value"]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return ["func"]
    return []


def apply(node: ast.AST, name: str) -> None:
    if name == "op":
        node.op = SWAPS[type(node.op)]()  # type: ignore[attr-defined]
    elif name == "ops":
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[attr-defined]
    elif name == "value":
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.1  # type: ignore[attr-defined]
    else:
        node.func.id = CALLS[node.func.id]  # type: ignore[attr-defined]


def tried(file: str, what: str, text: str, tests: list[str]) -> dict[str, object]:
    """Run the tests on a copy with the changed file, in a process of their own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for part in ("nas", "kernels", "tests", "search_spaces", "scripts", "results", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, copy / part)
        (copy / file).write_text(text, encoding="utf-8")
        child = os.fork()
        if not child:
            run_tests(copy, tests)
        while time.monotonic() - began < MOST_SECONDS:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ended = "survived" if os.waitstatus_to_exitcode(status) == 0 else "noticed"
                break
            time.sleep(0.1)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ended = "noticed by the time it took"
    entry: dict[str, object] = {"file": file, "what": what, "ended": ended}
    print(json.dumps(entry), file=sys.stderr, flush=True)
    return entry


def run_tests(copy: Path, tests: list[str]) -> None:
    """In a child, which it ends: the exit code is that of pytest."""
    os.setpgid(0, 0)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(copy)
    sys.path[:0] = [str(copy), str(copy / "tests")]
    import pytest

    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


if __name__ == "__main__":
    main(*sys.argv[1:])
