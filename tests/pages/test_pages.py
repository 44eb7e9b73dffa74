"""The pages: short, linked, and every command in them is one that works."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from zipfile import ZipFile

import click
import pytest
import yaml

from helpers.pages import README, ROOT, anchors, blocks, commands, files, needs_git, pages
from helpers.searches import ended
from nas.cli import cli

PAGES = pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# Where a test really runs each verb of README
RUN_BY = {
    "search": "tests/search/test_search.py",
    "status": "tests/search/test_search.py",
    "list": "tests/runs/test_run_folder.py",
    "report": "tests/search/test_search.py",
    "confirm": "tests/search/test_replicates.py",
    "bundle": "tests/runs/test_bundle.py",
    "verify": "tests/runs/test_bundle.py",
    "diff": "tests/runs/test_bundle.py",
    "dashboard": "tests/search/test_search.py",
    "prepare": "tests/datasets/test_prepare.py",
    "retrain": "tests/retrain/test_retrain.py",
    "evaluate": "tests/pages/test_example.py",
    "predict": "tests/pages/test_example.py",
    "export": "tests/deploy/test_export.py",
    "profile": "tests/pages/test_pages.py",
    "bench": "tests/bench/test_bench_search.py",
    "schema": "tests/cli/test_cli.py",
}
# Commands that are no `nas`, and what runs them
OTHERS = {
    "./scripts/quickstart": "scripts/measure_search.py, which makes results/search/quickstart.json",
    "./scripts/test": "every run of these tests",
    "pip install -c constraints.txt -e '.[dev]'": "scripts/_setup.sh",
    "pip install 'opnas[all] @ git+URL'": "test_wheel_from_a_git_address_has_no_pages",
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu": "nothing: the index is torch's",
}


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        target_path = (page.parent / path).resolve() if path else page
        assert target_path.exists(), target
        assert not anchor or anchor in anchors(target_path / "README.md" if target_path.is_dir() else target_path), (
            target
        )


def test_every_folder_with_a_page_is_linked_from_readme():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(README.read_text("utf-8"))}
    assert {page for page in PAGES if page != README} <= linked


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_understood(page):
    """Verb, options and their values, as the command line reads them; nothing is run."""
    for line in commands(page):
        words = shlex.split(line.replace("...", ""))
        if words[:1] == ["nas"]:
            understood(cli, words[1:])


def understood(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group):
        assert words[0] in command.commands, words
        understood(command.commands[words[0]], words[1:])
    else:
        command.make_context("nas", words)


def verb_rows() -> Iterator[tuple[click.Command, str]]:
    """The table of verbs in README: a command and its row."""
    for row in re.findall(r"^\| `nas .*$", README.read_text(encoding="utf-8"), re.MULTILINE):
        for name in re.findall(r"nas (\w+)", row):
            yield cli.commands[name], row


def test_table_of_verbs_has_every_verb_and_options_that_exist():
    assert {command.name for command, _ in verb_rows()} == set(cli.commands)
    for command, row in verb_rows():
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        own = {option for each in inner for parameter in each.params for option in parameter.opts}
        others = {option for each, _ in verb_rows() if _ == row for p in each.params for option in p.opts}
        assert set(OPTION.findall(row)) <= own | others, row


def test_every_command_of_readme_is_run_by_a_test():
    verbs = {line.split()[1] for line in commands(README) if line.startswith("nas ")}
    verbs |= {command.name or "" for command, _ in verb_rows()}
    for verb in verbs:
        text = (ROOT / RUN_BY[verb]).read_text(encoding="utf-8")
        assert f'"{verb}"' in text, f"{RUN_BY[verb]} does not run nas {verb}"
    lines = [line for line in "".join(blocks(README, "bash")).splitlines() if not line.startswith("nas ")]
    assert {line.partition("  #")[0].rstrip() for line in lines if line} == set(OTHERS)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_and_yaml_of_pages_is_well_formed(page):
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "yaml"):
        assert yaml.safe_load(text)


def test_python_of_readme_runs():
    for text in blocks(README, "python"):
        exec(compile(text, "README.md", "exec"), {})


def test_citation_and_hooks_are_yaml_that_names_what_is_there():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for key in ("version", "license"):
        assert f'\n{key} = "{citation[key]}"\n' in project
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for hook in local["hooks"][:3]:
        assert " ".join(hook["entry"].replace(" --force-exclude", "").split()[:2]) in checks


def test_costs_of_a_published_network(tmp_path, monkeypatch, capsys):
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "profile", "mobilenetv2_050", "--resolution", "32")
    assert code == 0 and "latency" in said


@needs_git
def test_wheel_from_a_git_address_has_no_pages(tmp_path):
    """Installation without a checkout: what is committed, packed as pip packs it from an address."""
    address = f"git+{ROOT.as_uri()}"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run([*command, address], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith(".md")]
    assert {
        "nas/cli.py",
        "nas/kernels/__init__.py",
        "search_spaces/quickstart.yaml",
        "nas/retrain/recipes/a3.yaml",
    } <= {*names}


@needs_git
def test_source_distribution_has_what_tests_need_and_links_that_an_index_can_follow(tmp_path):
    """All that is committed, in the places where tests look for it; README without paths, or to an address with one."""

    def done(folder: Path, *command: str) -> str:
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
        return ended.stdout

    def built(what: str) -> None:
        done(copy, sys.executable, "-c", f"from setuptools import build_meta; build_meta.{what}('../made')")

    copy, made = tmp_path / "copy", tmp_path / "made"
    done(tmp_path, "git", "clone", "-q", "--depth", "1", ROOT.as_uri(), "copy")
    built("build_sdist")
    (path,) = made.glob("*.tar.gz")
    with tarfile.open(path) as packed:
        packed.extractall(tmp_path)
    unpacked = tmp_path / path.name.removesuffix(".tar.gz")
    tracked = done(copy, "git", "ls-files").split()
    metadata = (unpacked / "PKG-INFO").read_text(encoding="utf-8")
    for line in (
        "Classifier: Typing :: Typed",
        "Provides-Extra: all",
        "Provides-Extra: search",
        "Requires-Dist: torch",
    ):
        assert line in metadata
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;]*$", metadata, re.MULTILINE)
    assert not {"ray", "optuna", "scikit-learn", "plotly", "starlette", "pandas"} & {*needed}
    assert len(links := LINK.findall(metadata)) > 3 and all(link.startswith("https://") for link in links)
    assert "nas: architecture, one trial from YAML to front" in metadata

    listing = ["import sys; sys.path += ['.', 'tests']", "from helpers.pages import files", "print(*files())"]
    assert {*done(unpacked, sys.executable, "-c", "; ".join(listing)).split()} == {*tracked} - {"nas/kernels"}

    address = "https://git.example.org/opnas"
    project = (copy / "pyproject.toml").read_text(encoding="utf-8")
    section = "[project.urls]"
    (copy / "pyproject.toml").write_text(project.replace(section, f'{section}\nRepository = "{address}" #'), "utf-8")
    built("prepare_metadata_for_build_wheel")
    metadata = (made / "opnas-0.1.0.dist-info" / "METADATA").read_text(encoding="utf-8")
    assert f"![Pareto front of the quick start]({address}/raw/HEAD/results/pictures/quickstart.png)" in metadata
    assert f"([nas]({address}/blob/HEAD/nas/README.md#from-python))" in metadata


def test_architecture_names_every_room():
    page = (ROOT / "nas" / "README.md").read_text(encoding="utf-8")
    (graph,) = re.findall(r"^```mermaid\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    rooms = {path.parent.name for path in (ROOT / "nas").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"[a-z]\w+", graph))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_pages_name_are_there(page):
    """Paths in backticks that begin with a folder of the repository or of the page's own folder."""
    folders = {str(parent) for path in files() for parent in PurePath(path).parents}
    for path in re.findall(r"`(\w+/[\w./-]+)`", page.read_text(encoding="utf-8")):
        first = path.partition("/")[0]
        roots = [at for at in (ROOT, page.parent) if str(PurePath(at.relative_to(ROOT), first)) in folders]
        if (
            roots
            and not re.search(r"[A-Z]{3}", path)
            and not path.startswith(("results/quickstart/", "results/.cache/"))
        ):
            assert any((root / path).exists() for root in roots), path
