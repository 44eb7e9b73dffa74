"""Beside the distribution `kernels` of Hugging Face, which has that import name: neither hides or breaks the other.

The real one, from the package registry, in environments of their own on top of the one that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from helpers.searches import write_experiment
from nas.runs.record import read_records

ROOT = Path(__file__).parents[2]
THEIRS = "import kernels; assert callable(kernels.get_kernel) and not hasattr(kernels, 'involution')"
OURS = "from nas import kernels as ours; from nas.operators import Involution2d; import torch, sys\n"
OURS += "assert ours.involution and Involution2d(16)(torch.ones(1, 16, 2, 2)).shape == (1, 16, 2, 2)\n"
OURS += "assert sys.modules['nas.kernels'] is ours and torch.ops.opnas.involution"
NO_OTHER = "from importlib.util import find_spec; assert find_spec('{}') is None"


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A virtual environment in `folder`, which finds the packages of the tests' own behind its own."""

    def __init__(self, folder: Path):
        self.folder, self.python = folder, folder / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        (site,) = (folder / "lib").glob("python*/site-packages")
        # a path file there is not read, so that the opnas that runs the tests is not found
        (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def pip(self, verb: str, *arguments: str | Path) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, verb, "-q", *arguments, cwd=self.folder)

    def install(self, arguments: tuple[str | Path, ...]) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *arguments)

    def check(self, *programs: str) -> None:
        run(self.python, "-c", "\n".join(programs), cwd=self.folder)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Their wheel."""
    folder = tmp_path_factory.mktemp("theirs")
    options = ["--no-deps", "--retries", "1", "--timeout", "10", "--disable-pip-version-check", "-d", folder]
    command = [sys.executable, "-m", "pip", "download", *options, "kernels"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "from versions: none" in done.stderr:
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, tuple[str | Path, ...]]:
    """How opnas is installed: from a wheel, from a checkout by a link."""
    folder = tmp_path_factory.mktemp("ours")
    checkout = folder / "checkout"
    for name in ("kernels", "nas", "search_spaces"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, checkout)
    build = "import setuptools.build_meta as b; print(b.build_wheel('..'))"
    run(sys.executable, "-c", build, cwd=checkout)
    (wheel,) = folder.glob("*.whl")
    return {"wheel": (wheel,), "editable": ("-e", checkout)}


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("first", ["opnas", "kernels"])
def test_both_work_in_either_order_and_each_without_the_other(tmp_path, ours, theirs, first, kind):
    environment = Environment(tmp_path / "environment")
    installs = {"opnas": ours[kind], "kernels": (theirs,)}
    for name in sorted(installs, key=lambda name: name != first):
        environment.install(installs[name])
    environment.check(THEIRS, OURS)
    environment.pip("uninstall", "-y", first)
    if first == "kernels":
        environment.check(OURS, NO_OTHER.format("kernels"))
    else:
        environment.check(THEIRS, NO_OTHER.format("nas"))


def test_search_beside_theirs(tmp_path, ours, theirs):
    environment = Environment(tmp_path / "environment")
    environment.install((theirs, *ours["wheel"]))
    write_experiment(tmp_path)
    search = (environment.folder / "bin" / "nas", "search", "tiny.yaml", "--set", "search.num_trials=1")
    search += ("--set", "resources.max_concurrent=1")
    run(*search, cwd=tmp_path)
    assert [record.state for record in read_records(tmp_path / "results" / "tiny")] == ["complete"]
