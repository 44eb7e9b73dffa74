"""The command itself: what it imports, what it says about itself, how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from helpers.searches import ended, environment, nas, write_experiment
from nas.cli import cli

HEAVY = ("torch", "torchvision", "timm", "ray", "optuna", "pydantic", "numpy", "matplotlib", "starlette")
PROGRAM = """
import sys
from nas.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def imported(folder, *arguments: str) -> set[str]:
    """The top-level modules in a process that ran the command."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["retrain", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(tmp_path, arguments):
    assert not imported(tmp_path, *arguments) & set(HEAVY)


def test_schema_imports_no_torch_ray_or_optuna(tmp_path):
    assert not imported(tmp_path, "schema") & {"torch", "torchvision", "timm", "ray", "optuna"}


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_explains_itself(tmp_path, monkeypatch, capsys, verb):
    code, said, _ = ended(tmp_path, monkeypatch, capsys, verb, "--help")
    assert code == 0 and f" {verb} " in said.splitlines()[0]
    assert " ".join((cli.commands[verb].help or "absent").split()) in " ".join(said.split())


def test_schema_is_json_that_names_the_sections(tmp_path, monkeypatch, capsys):
    code, said, errors = ended(tmp_path, monkeypatch, capsys, "schema")
    assert code == 0 and errors == ""
    assert {"space", "objectives", "search", "proxy", "resources", "retrain"} <= json.loads(said)["properties"].keys()


def test_dry_run_shows_the_plan_and_what_it_comes_to(tmp_path, monkeypatch, capsys):
    """Images, costs, the share within the limits and the time; nothing is written."""
    write_experiment(tmp_path)
    settings = ["--set", "search.seed=9", "--set", "constraints={num_params: {max: 4000}}"]
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "search", "tiny.yaml", "--dry-run", *settings)
    assert code == 0 and "results/tiny" in said and "6 trainings by nsga2, seed 9" in said
    assert "160 to train with, 40 to validate, 10 classes" in said
    assert re.search(r"num_params \d.* to \d.*, num_macs .*, [\d.]+ % within num_params", said), said
    assert "nothing to train" not in said
    assert re.search(r"about \d+ min on .*, [\d.e-]+ s per epoch", said) and not (tmp_path / "results").exists()
    settings[-1] = "constraints={num_params: {max: 10}}"
    _, said, _ = ended(tmp_path, monkeypatch, capsys, "search", "tiny.yaml", "--dry-run", *settings)
    assert ", 0 % within num_params: a search may find nothing to train" in said


def test_dry_run_tells_all_that_the_start_would_refuse_at_once(tmp_path, monkeypatch, capsys):
    write_experiment(tmp_path)
    settings = ["search.sampler=cmaes", "search.scheduler=asha", "search.warm_start=[rednet51]"]
    settings += ["search.storage=mysql://x/y", "proxy.dataset=imagefolder", "resources.gpus_per_trial=1"]
    settings.append("resources.storage_path=foo://x/y")
    options = [part for setting in settings for part in ("--set", setting)]
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", "tiny.yaml", "--dry-run", *options)
    for words in (
        "cmaes",
        "asha",
        "rednet51",
        "mysql",
        "proxy.data_dir",
        "resources.gpus_per_trial",
        "Protocol not known: foo",
    ):
        assert code == 2 and words in errors, errors
    assert len(errors.splitlines()) == 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Usage: "),
        (["serach"], "No such command 'serach'"),
        (["search"], "Missing argument 'FILE"),
        (["search", "tiny.yaml", "--nmae", "x"], "No such option '--nmae'. Did you mean '--name'?"),
        (["search", "tiny.yaml", "--dry-run", "--set", "search.seed"], "search.seed"),
        (["search", "tiny.yaml", "--dry-run", "--set", "search.sampler=best"], "random"),
        (["search", "tiny.yaml", "--dry-run", "--set", "resources.storage_path=s3:/b/x"], "s3://"),
        (["search", "absent.yaml", "--dry-run"], "absent.yaml"),
        (["retrain", "tiny"], "give one of --key, --front, --genotype and --published"),
        (["dashboard", "--port", "99999"], "99999"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    write_experiment(tmp_path)
    code, said, errors = ended(tmp_path, monkeypatch, capsys, *arguments)
    assert code == 2 and message in errors + (said if not arguments else ""), (code, said, errors)
    assert "Traceback" not in errors


def test_kernels_that_cannot_run_here_are_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPNAS_KERNELS", "involution=fast")
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "profile", "rednet26")
    assert code == 2 and errors.startswith("nas: OPNAS_KERNELS = 'involution=fast': "), errors
    assert len(errors.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error(tmp_path):
    """As in `nas schema | head`."""
    command = f"set -o pipefail; {sys.executable} -m nas.cli schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and done.stdout == "{" and done.stderr == ""


def test_the_module_is_the_command(tmp_path):
    assert nas(tmp_path, "--version").stdout.split()[-1].count(".") == 2
