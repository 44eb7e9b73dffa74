"""The rooms of the package: few modules in each, and few directions in which they import each other."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2] / "nas"
WINGS = sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "kernels")
MOST_FILES_IN_ROOT, MOST_MODULES, MOST_ARROWS = 10, 14, 26


def test_few_files_lie_in_the_root():
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES_IN_ROOT


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_has_few_modules_and_says_what_it_is_for(wing):
    """Of a folder inside a wing the same holds."""
    for folder in [wing, *(path.parent for path in wing.rglob("*/__init__.py"))]:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, f"{folder} has {len(modules)} modules, at most {MOST_MODULES} are allowed"
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""')


def test_wings_import_each_other_in_few_directions():
    """The imports between wings without those that follow from others (the transitive reduction) are few."""
    graph = grimp.build_graph("nas")
    names = {wing.name for wing in WINGS} | {"kernels", "cli"}
    arrows: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = (name.split(".")[1] if "." in name else "" for name in (module, imported))
            if source != target and {source, target} <= names:
                arrows[source].add(target)

    def reached(start: set[str]) -> set[str]:
        found, left = set(), set(start)
        while left:
            wing = left.pop()
            if wing not in found:
                found.add(wing)
                left |= arrows[wing]
        return found

    reduced = [(a, b) for a in names for b in arrows[a] if b not in reached(arrows[a] - {b})]
    assert len(reduced) <= MOST_ARROWS, sorted(reduced)


def test_the_tests_of_what_is_read_and_checked_need_no_torch_ray_or_browser():
    lines = [
        "import sys, pytest",
        "sys.modules.update(torch=None, ray=None, playwright=None)",
        "sys.exit(pytest.main(['--collect-only', '-q', 'tests/runs', 'tests/space', 'tests/config']))",
    ]
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT.parent, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-2000:]
