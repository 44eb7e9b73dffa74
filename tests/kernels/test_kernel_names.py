"""One package under two names, `nas.kernels` and, in the root of a checkout, `kernels`; neither takes another's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOTH = """
import importlib, sys
first, second = sys.argv[1:]
from_first = importlib.import_module(first)
assert first != "kernels" or "nas" not in sys.modules
importlib.import_module(f"{first}.involution.triton")
assert importlib.import_module(second) is from_first
assert callable(from_first.involution)
for name in ("_core.dispatch", "involution.triton", "involution", "tools.shipped", "odconv2d.sampled"):
    assert importlib.import_module(f"{second}.{name}") is importlib.import_module(f"{first}.{name}"), name
import torch
assert from_first.involution(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 1, 1, 3, 3)).shape == (1, 2, 3, 3)
"""
THEIRS = """
from nas import kernels as ours
import kernels as theirs
assert theirs.OWNER == "somebody else" and callable(ours.involution) and not hasattr(theirs, "involution")
from kernels.involution import OWNER
assert OWNER == "somebody else"
"""


def run(program: str, *arguments: str, cwd: Path, path: tuple[Path, ...]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-W", "error::ImportWarning", "-c", program, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", [("kernels", "nas.kernels"), ("nas.kernels", "kernels")])
def test_second_name_is_the_same_modules(names):
    run(BOTH, *names, cwd=ROOT, path=())


def test_second_name_in_a_source_distribution_which_has_a_copy_for_the_link(tmp_path):
    for name in ("kernels", "nas/kernels", "nas/base"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "nas" / "__init__.py", tmp_path / "nas")
    run(BOTH, "nas.kernels", "kernels", cwd=tmp_path, path=(tmp_path,))


def test_package_of_somebody_else_keeps_its_name(tmp_path):
    theirs = tmp_path / "site" / "kernels"
    theirs.mkdir(parents=True)
    for name in ("__init__", "involution"):
        (theirs / f"{name}.py").write_text('OWNER = "somebody else"\n', encoding="utf-8")
    run(THEIRS, cwd=tmp_path, path=(tmp_path / "site", ROOT))


def test_tool_runs_from_the_root_by_its_short_name():
    done = subprocess.run(
        [sys.executable, "-m", "kernels.ahead", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "--target" in done.stdout, done.stderr
