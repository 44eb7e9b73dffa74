"""The lists of CONTRIBUTING followed in a copy of the repository: the tests that they name fail, then pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("nas", "kernels", "tests", "search_spaces", "scripts", "README.md", "CONTRIBUTING.md", "pyproject.toml")

FILES = {
    "nas/operators/shift.py": '''"""Shift: a 1x1 convolution of an input whose quarters have moved, each its own way."""

import torch
from torch import nn

from nas.operators.common import kaiming_

MOVES = ((1, 2), (-1, 2), (1, 3), (-1, 3))


class Shift(nn.Module):
    """[N,C_in,H,W] -> [N,C_out,ceil(H/s),ceil(W/s)], linear."""

    normalizes = False

    def __init__(self, in_channels, out_channels, stride=1, distance=1):
        super().__init__()
        self.distance = distance
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        kaiming_(self)

    def forward(self, x):
        parts = [x.roll(self.distance * by, axis) for (by, axis) in MOVES]
        return self.conv(torch.cat([part[:, i::4] for i, part in enumerate(parts)], dim=1))
''',
    "nas/retrain/recipes/brief.yaml": """# Ten epochs of SGD; no paper
epochs: 10
batch_size: 256
optimizer: sgd
learning_rate: 0.1
weight_decay: 1e-4
warmup_epochs: 1
warmup_learning_rate: 0.0
""",
}
STEPS = {  # what is put before which line of a file
    "nas/space/specs.py": [
        (
            "Operator = Annotated[Conv",
            "@dataclass(frozen=True, kw_only=True, config=STRICT)\nclass Shift:\n"
            '    """Shifted quarters of the channels, mixed by a 1x1 convolution."""\n\n'
            '    op: Literal["shift"] = "shift"\n    """Shift."""\n'
            '    distance: Count = 1\n    """How far each quarter moves, in pixels."""\n\n'
            '    def __post_init__(self):\n        _at_least("distance", self.distance, 1)\n\n\n',
        ),
        ('OPERATORS.register("conv"', 'OPERATORS.register("shift", Shift, "nas.operators.shift:Shift")\n'),
    ],
    "nas/runs/report_picture.py": [('    "conv": "#777F88"', '    "shift": "#6D0FF9",\n')],
    "nas/dashboard/static/style.css": [(".op-scconv {", ".op-shift { background: #6d0ff9; }\n")],
    "nas/data/datasets.py": [
        (
            "DATASETS: dict[",
            'def load_stripes(request: Request) -> Pool:\n    """Lying and standing stripes, 20 of each."""\n'
            "    side = torch.arange(request.resolution) % 2\n"
            "    lying = side[:, None].expand(-1, request.resolution)\n"
            "    pixels = torch.stack([lying, lying.T])[:, None].to(torch.uint8).mul(255).repeat(20, 1, 1, 1)\n"
            "    rows = torch.arange(40)\n"
            '    return Pool(Images(pixels, rows, rows % 2), None, ("lying", "standing"), "stripes")\n\n\n',
        ),
        ('    "digits": load_digits', '    "stripes": load_stripes,\n'),
    ],
    "nas/search/samplers.py": [
        (
            "SAMPLERS: dict[",
            "def _brief(seed: int, run_seed: int, knowledge: Knowledge) -> BaseSampler:\n"
            "    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)\n\n\n",
        ),
        ('    "random": _random', '    "brief": _brief,\n'),
    ],
}
KERNELS = {  # the list in kernels/README.md; the folder is that of the self-calibrated gate under another name
    "kernels/operations.py": [('    "self_calibrated_gate"', '    "twin_gate",\n')],
    "kernels/__init__.py": [
        ("from .self_calibrated_gate import", "from .twin_gate import twin_gate\n"),
        ('    "self_calibrated_gate"', '    "twin_gate",\n'),
    ],
}
NAMED = {  # where a name becomes one of those allowed
    "nas/space/specs.py": ("Annotated[Conv | ", "Annotated[Conv | Shift | "),
    "nas/base/section.py": ('Literal["digits", ', 'Literal["digits", "stripes", '),
    "nas/config/sections.py": ('Literal["random", ', 'Literal["random", "brief", '),
}
LAST = {  # the step of each list that tests it
    "tests/operators/test_operators.py": [
        ('    "scconv": ("scconv", {})', '    "shift": ("shift", {"distance": 2}),\n'),
        ('    "scconv": 9 * 16', '    "shift": 196 * 32 * 32,\n'),
    ],
    "tests/datasets/test_data.py": [('        "digits": None', '        "stripes": None,\n')],
    "tests/kernels/interpreted_contract.py": [
        (
            '    "self_calibrated_gate": Operation(',
            '    "twin_gate": Operation(\n        shaped(lambda n: (n, 2, 3, 5), lambda n: (n, 2, 3, 5), '
            "lambda n: (n, 2, 1, 2)),\n        (0, 1, 2),\n        kernels.twin_gate,\n"
            "        lambda *tensors: tensors,\n    ),\n",
        ),
    ],
    "tests/retrain/test_recipes.py": [('    "a1": (', '    "brief": ("sgd", 0.1, 1e-4, 256, 10),\n')],
}
LAST_NAMED = {"tests/kernels/interpreted_contract.py": ("KEPT = (", 'KEPT = ("twin_gate", ')}
GUARDS = {
    "tests/operators/test_operators.py::test_every_operator_has_a_variant",
    "tests/datasets/test_data.py::test_every_dataset_keeps_the_contract",
    "tests/retrain/test_recipes.py::test_all_recipes_are_there",
    "tests/kernels/interpreted_contract.py::test_every_kernel_is_here",
}
CHOSEN = (
    "twin_gate or every_kernel or shift or brief or stripes or every_operator or every_dataset or all_recipes "
    "or name_every_sampler"
)


def put(folder: Path, steps: dict[str, list[tuple[str, str]]]) -> None:
    for name, insertions in steps.items():
        text = (folder / name).read_text(encoding="utf-8")
        for line, new in insertions:
            assert text.count(line) >= 1, f"{name} has no line {line!r}"
            text = text.replace(line, new + line, 1)
        (folder / name).write_text(text, encoding="utf-8")


def rename(folder: Path, names: dict[str, tuple[str, str]]) -> None:
    for name, (old, new) in names.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def outcomes(folder: Path, *chosen: str) -> dict[str, str]:
    """Test -> passed or failed, of a run of pytest in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-rA"]
    done = subprocess.run([*command, *chosen], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    found = {name: how for how, name in re.findall(r"^(PASSED|FAILED|ERROR) (tests/\S+)", done.stdout, re.MULTILINE)}
    assert found, done.stdout[-3000:] + done.stderr[-2000:]
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository with every list of CONTRIBUTING followed but for the steps in tests."""
    folder = tmp_path_factory.mktemp("opnas")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, symlinks=True, ignore=skipped)
        else:
            shutil.copy(source, folder / name)
    if not (linked := folder / "nas" / "kernels").is_symlink():  # a source distribution has a copy in its place
        shutil.rmtree(linked)
        linked.symlink_to(Path("..", "kernels"))
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    twin = folder / "kernels" / "twin_gate"
    shutil.copytree(twin.with_name("self_calibrated_gate"), twin)
    for path in twin.glob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace("self_calibrated_gate", twin.name), encoding="utf-8")
    put(folder, STEPS)
    put(folder, KERNELS)
    rename(folder, NAMED)
    return folder


def test_what_the_lists_add_is_tested_by_the_tests_that_they_name(copy):
    before = outcomes(copy, *GUARDS)
    assert {name for name, outcome in before.items() if outcome == "FAILED"} == GUARDS, before
    put(copy, LAST)
    rename(copy, LAST_NAMED)
    files = sorted({*LAST, "tests/search/test_samplers.py"})
    after = outcomes(copy, *files, "-k", CHOSEN)
    assert set(after.values()) == {"PASSED"}, {name: outcome for name, outcome in after.items() if outcome != "PASSED"}
    for name, least in (("shift", 8), ("brief", 4), ("twin_gate", 6)):
        assert sum(name in test for test in after) >= least, sorted(after)
    assert set(after) > GUARDS


def test_files_of_the_lists_are_those_that_are_changed_here():
    page = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "kernels/README.md"))
    for name in (*STEPS, *KERNELS, *NAMED, *LAST):
        assert name in page or Path(name).name in page, name
