"""Text files are UTF-8 whatever the locale: no call leaves it to that, and a search works under one that has ASCII."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from helpers.run_samples import add_record, experiment, make_run
from nas.base.locks import RunLock
from nas.config.reading import load
from nas.runs.folder import begun_run
from nas.space.search_space import SearchSpace

ROOT = Path(__file__).parents[2]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PROGRAM = """
import sys, locale
from pathlib import Path
assert locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"), locale.getpreferredencoding(False)
from nas.base.locks import RunLock
from nas.config.reading import load_experiment
from nas.runs.folder import begun_run
config, _ = load_experiment(Path("given.yaml"))
run = Path("results/begun")
with RunLock(run / "driver.lock"), begun_run(run, Path("given.yaml"), config, False):
    pass
"""


def locale_calls(text: str) -> Iterator[ast.Call]:
    """Calls that open a text file in the encoding of the locale."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("read_text", "write_text") or (name in ("open", "fdopen") and is_text(node, name)):
            yield node


def is_text(call: ast.Call, name: str) -> bool:
    """Whether `open` of Python, of os or of a Path has a mode of text; that of a module has a file name first."""
    of_path = isinstance(call.func, ast.Attribute) and name == "open"
    mode = call.args[0 if of_path else 1 :][:1]
    if not mode:
        return True
    return isinstance(mode[0], ast.Constant) and isinstance(mode[0].value, str) and "b" not in mode[0].value


def test_locale_calls_are_found():
    found = "p.read_text()\np.write_text('x')\np.open()\np.open('a')\nopen(p)\nopen(p, 'w')\nos.fdopen(d, 'w')\n"
    assert len(list(locale_calls(found))) == 7
    others = "p.read_text(encoding='utf-8')\np.open('rb')\nopen(p, 'rb')\nImage.open(p)\nos.open(p, F)\n"
    assert not list(locale_calls(others))


@pytest.mark.parametrize("folder", ["nas", "kernels", "scripts", "search_spaces"])
def test_no_text_file_is_opened_in_the_encoding_of_the_locale(folder):
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in locale_calls(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | ASCII, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("ascii")


def test_a_run_is_written_and_read_under_an_ascii_locale(tmp_path):
    text = "# Größe, 大きさ\n" + yaml.safe_dump(experiment(proxy={"data_dir": "/data/Größe"}).model_dump(mode="json"))
    (tmp_path / "given.yaml").write_text(text, encoding="utf-8")
    python(tmp_path, "-c", PROGRAM)
    run = tmp_path / "results/begun"
    assert (run / "experiment.yaml").read_text(encoding="utf-8") == text
    assert load(run / "resolved.yaml").proxy.data_dir == "/data/Größe"
    make_run(tmp_path / "results/full", 20)
    add_record(tmp_path / "results/full", SearchSpace(experiment().space), 20, state="failed", error="Fehler: zu groß")
    with RunLock(run / "driver.lock"), begun_run(run, tmp_path / "given.yaml", load(tmp_path / "given.yaml"), True):
        pass
    assert "begun: interrupted" in python(tmp_path, "-m", "nas.cli", "status", "begun")
    assert "Fehler" in python(tmp_path, "-m", "nas.cli", "report", "full")  # its × cannot be printed, and is replaced
    python(tmp_path, "-m", "nas.cli", "dashboard", "full", "--export", "page.html")
    assert "×" in (tmp_path / "page.html").read_text(encoding="utf-8")
