"""The guide to operators, blocks, data sets and samplers of one's own, followed word by word: files and commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.searches import environment, nas, report, results

PAGE = Path(__file__).parents[2] / "nas" / "extending.md"
OWN = ("my_ops:Shift", "my_blocks:Plain")


def files(page: str) -> dict[str, str]:
    """Name -> text of the files that a page shows: blocks of code whose first line is a comment with the name."""
    return dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE))


def commands(page: str) -> list[str]:
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return block.splitlines()


def write_guide(folder: Path) -> None:
    for name, text in files(PAGE.read_text(encoding="utf-8")).items():
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder in which all commands of the guide were run, and what each printed."""
    folder = tmp_path_factory.mktemp("guide")
    write_guide(folder)
    said, key = {}, ""
    for command in commands(PAGE.read_text(encoding="utf-8")):
        words = [key if word == "KEY" else word for word in command.split()[1:]]
        said[command] = nas(folder, *words, timeout=900).stdout
        if words[0] == "report":
            key = owned(folder / "results/mine")
    return folder, said


def owned(run_dir: Path) -> str:
    """The key of a trained network with an operator and a block of the guide."""
    texts = {record.key: json.dumps(record.genotype) for record in results(run_dir) if record.state == "complete"}
    return next(key for key, text in texts.items() if all(name in text for name in OWN))


def test_the_search_trains_what_the_files_bring(followed):
    folder, said = followed
    run_dir = folder / "results/mine"
    records = [record for record in results(run_dir) if record.state != "rejected"]
    assert len(records) == 4 and all(record.state == "complete" for record in records), [r.error for r in records]
    assert "my_samplers:small_families" in said["nas search mine.yaml --dry-run"]
    assert sorted(path.name for path in (run_dir / "code").glob("*.py")) == [
        "my_blocks.py",
        "my_data.py",
        "my_ops.py",
        "my_samplers.py",
        "my_scores.py",
    ]
    for record in records:
        shifts = re.findall(r'\{[^{}]*"my_ops:Shift"[^{}]*\}', json.dumps(record.genotype))
        assert all(json.loads(shift)["distance"] in (1, 2) for shift in shifts)


def test_report_and_pages_show_it_as_any_other(followed):
    folder, _ = followed
    kinds = {label for entry in report(folder, "mine")["front"] for stage in entry["operators"] for label in stage}
    assert kinds <= {"conv3", "shift1", "shift2"}
    assert (folder / "mine.png").stat().st_size > 10_000
    assert (folder / "mine.html").stat().st_size > 1_000_000


def test_reading_a_run_runs_no_code_of_it(followed):
    """Report, status and the saved page of a run whose files would end the process."""
    folder, _ = followed
    copy = folder / "bad" / "mine"
    shutil.copytree(folder / "results/mine", copy)
    for path in (copy / "code").glob("*.py"):
        path.write_text("raise SystemExit('run')\n", encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from nas.runs.report import report;"
        "from nas.runs.status import run_status;"
        "from nas.dashboard import export_html; path = Path(sys.argv[1]); export_html(path, path.parent / 'page.html');"
        "print(len(report(path)['front']) > 0, run_status(path)['state'], {'torch', 'my_ops'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", program, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=folder)
    assert done.stdout.split() == ["True", "finished", "set()"], done.stderr


def test_a_copy_of_the_run_goes_on_without_the_files(followed, tmp_path):
    """Elsewhere, without the experiment's folder: the search goes on, with the code that the run keeps."""
    folder, _ = followed
    shutil.copytree(folder / "results/mine", tmp_path / "moved")
    nas(tmp_path, "search", "--resume", "moved", "--set", "search.num_trials=5", timeout=900)
    records = [record for record in results(tmp_path / "moved") if record.state != "rejected"]
    assert len(records) == 5 and all(record.state == "complete" for record in records), [r.error for r in records]


def test_a_retraining_is_exported_with_its_code_and_loaded_by_timm(followed, tmp_path):
    folder, said = followed
    key = owned(folder / "results/mine")
    assert "top1" in said["nas retrain mine --key KEY"] and "80 images" in said["nas evaluate mine --key KEY"]
    export = Path(said["nas export mine --key KEY --format timm"].strip())
    shutil.copytree(folder / export, tmp_path / "export")
    program = (
        "import nas.published, timm, torch; model = timm.create_model('local-dir:export', pretrained=True).eval();"
        "print(*model(torch.zeros(3, 1, 16, 16)).shape,"
        "{type(m).__name__ for m in model.modules()} >= {'Shift', 'Plain'});"
        "again = timm.create_model('opnas', genotype='export/genotype.json', num_classes=2, in_chans=1);"
        "print(again.state_dict().keys() == model.state_dict().keys(), again.genotype.key)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.stdout.split() == ["3", "2", "True", "True", key], done.stderr


def test_files_that_changed_do_not_go_on_unseen(followed, tmp_path):
    folder, _ = followed
    shutil.copytree(folder, tmp_path / "changed", ignore=shutil.ignore_patterns("bad", "export", "retrain"))
    with (tmp_path / "changed/my_ops.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    more = ("--resume", "--set", "search.num_trials=5")
    done = nas(tmp_path / "changed", "search", "mine.yaml", *more, check=False)
    assert done.returncode == 2 and "my_ops.py differs from what the run keeps" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
