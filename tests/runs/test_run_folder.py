"""The folder of a run and its lock: made whole or not at all, held by one driver, looked at without harm."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from helpers.run_samples import record, sample_record
from helpers.searches import EXPERIMENT, ended, write_experiment
from nas.base.errors import MachineError
from nas.base.locks import Locked, RunLock, is_locked
from nas.base.passwords import hidden, without_password
from nas.base.ray_session import ray_folder
from nas.config.reading import load, loads
from nas.dashboard.about import about
from nas.runs.folder import RunError, begun_run, find_run, given_storage, plan_run, run_id, write_run
from nas.runs.reader import RunReader
from nas.runs.record import read_records, write_record
from nas.space.search_space import SearchSpace

CONFIG = loads(EXPERIMENT, "tiny.yaml")
HOLDER = (
    "import sys; from pathlib import Path; from nas.base.locks import RunLock\n"
    "with RunLock(Path(sys.argv[1])):\n    print('held', flush=True)\n    input()"
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_found_by_name_and_by_path(folder):
    run_dir = plan_run("tiny", CONFIG, resume=False)
    assert run_dir == Path("results/tiny") and not run_dir.exists()
    write_run(run_dir, write_experiment(folder), CONFIG)
    assert find_run("tiny") == find_run("results/tiny") == run_dir
    assert load(run_dir / "resolved.yaml") == CONFIG and (run_dir / "experiment.yaml").read_text() == EXPERIMENT
    with pytest.raises(RunError, match="results/ has tiny"):
        find_run("absent")


@pytest.mark.parametrize("num_written", [1, 2])
def test_a_start_that_was_cut_off_leaves_the_name_free(folder, num_written):
    """What the first start left is replaced, also where the file has changed since."""
    run_dir = plan_run("tiny", CONFIG, resume=False)
    write_run(run_dir, write_experiment(folder), CONFIG)
    (run_dir / "resolved.yaml").unlink()
    (run_dir / "experiment.yaml").write_text("an earlier file")
    (run_dir / ".resolved.yaml.x1").write_text("")
    if num_written == 1:
        (run_dir / "environment.json").unlink()
    write_run(plan_run("tiny", CONFIG, resume=False), write_experiment(folder), CONFIG)
    assert (run_dir / "experiment.yaml").read_text() == EXPERIMENT


def test_a_folder_of_something_else_is_left_alone(folder):
    (folder / "results/tiny").mkdir(parents=True)
    (folder / "results/tiny/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is no run folder"):
        plan_run("tiny", CONFIG, resume=False)


def begun(run_dir: Path, source: Path, resume: bool = False) -> None:
    with RunLock(run_dir / "driver.lock"), begun_run(run_dir, source, CONFIG, resume):
        pass


def test_a_run_that_trained_nothing_is_replaced_and_one_that_has_is_not(folder):
    """Whatever it left: proposals in its study, rejected candidates, files of Ray."""
    source, run_dir = write_experiment(folder), Path("results/tiny")
    begun(run_dir, source)
    (run_dir / "experiment.yaml").write_text("an earlier file")
    for name in ("study.db", "study.db-wal", "ray/s/socket", "locks/trials", "checkpoints/0/trial.json"):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).touch()
    write_record(run_dir, record(0, "rejected"))
    begun(plan_run("tiny", CONFIG, resume=False), source)
    assert (run_dir / "experiment.yaml").read_text() == EXPERIMENT
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "driver.lock",
        "environment.json",
        "experiment.yaml",
        "resolved.yaml",
    ]
    for name in ("checkpoints/0/training", "notes.txt", "trials/0.json", "retrain"):
        (run_dir / name).mkdir(parents=True)
        with pytest.raises(RunError, match="run 'tiny' exists"):
            plan_run("tiny", CONFIG, resume=False)
        with pytest.raises(RunError, match="has trials by now"):
            begun(run_dir, source)
        (run_dir / name).rmdir()
    write_record(run_dir, record(0, "failed"))
    with pytest.raises(RunError, match="run 'tiny' exists"):
        plan_run("tiny", CONFIG, resume=False)
    begun(plan_run("tiny", CONFIG, resume=True), source, resume=True)
    assert read_records(run_dir) == [record(0, "failed")]


@pytest.mark.parametrize("given", ["file", "option"])
def test_a_password_stays_in_the_file_as_given_alone(folder, monkeypatch, given):
    """Which nobody else may read then; where it came by --set, it is nowhere."""
    url = "postgresql+psycopg://me:p%40ss-1@127.0.0.1:55433/runs?sslmode=prefer"
    source, options = write_experiment(folder), [f"search.storage={url}"]
    if given == "file":
        source.write_text(EXPERIMENT.replace("seed: 3", f"seed: 3, storage: '{url}'"))
        options = []
    monkeypatch.setattr("sys.argv", ["nas", "search", *(f"--set={option}" for option in options)])
    run_dir = Path("results/tiny")
    with RunLock(run_dir / "driver.lock"), begun_run(run_dir, source, load(source, options), resume=False):
        pass
    with_password = [path.name for path in run_dir.iterdir() if "p%40ss-1" in path.read_text()]
    assert with_password == (["experiment.yaml"] if given == "file" else [])
    mode = (run_dir / "experiment.yaml").stat().st_mode & 0o777
    assert mode == (0o600 if given == "file" else 0o644)
    kept = load(run_dir / "resolved.yaml").search.storage
    assert kept == "postgresql+psycopg://me@127.0.0.1:55433/runs?sslmode=prefer"
    shown = json.dumps(about(RunReader(run_dir).refresh()))
    assert "p%40ss-1" not in shown and ("me:***@127.0.0.1" in shown)


@pytest.mark.parametrize(
    "url, kept, shown",
    [
        (
            "postgresql+psycopg://me:pw@host/db",
            "postgresql+psycopg://me@host/db",
            "postgresql+psycopg://me:***@host/db",
        ),
        ("postgresql+psycopg://me@host:5432/db", None, None),
        (
            "postgresql+psycopg:///db?password=pw&user=me",
            "postgresql+psycopg:///db?user=me",
            "///db?password=***&user=me",
        ),
        ("postgresql+psycopg://me:p@/w:1@host/db", "postgresql+psycopg://me@host/db", "me:***@host/db"),
        ("sqlite:////shared/a@b:c.db", None, None),
    ],
)
def test_passwords_are_left_out_of_urls(url, kept, shown):
    assert without_password(url) == (kept or url)
    text = f"search: {{storage: {url}, seed: 3}}"
    assert (shown or url) in hidden(text) and ("pw" not in hidden(text))
    assert hidden(text).startswith("search: {storage: ") and hidden(text).endswith(", seed: 3}")


def test_rays_sockets_go_to_the_first_folder_that_is_short_enough(tmp_path, monkeypatch):
    """TMPDIR is long, and set for each job, on many clusters."""

    def chosen(run: Path, temporary: Path) -> Path:
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        return ray_folder(run)

    short = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    try:
        long = tmp_path / "with/a/rather/long/name"
        long.mkdir(parents=True)
        assert chosen(short / "a", long) == short / "a/ray/s"
        assert chosen(long, short).parent == short
        assert chosen(long, long).parent == Path("/tmp")
        assert chosen(short / ("ü" * 8), short).parent == short  # it is bytes that count
    finally:
        shutil.rmtree(short)


def mounted(folder: Path, options: str, *commands: str) -> subprocess.CompletedProcess[str]:
    """Commands with a file system of its own as results/, which nobody else sees."""
    (folder / "results").mkdir()
    script = " && ".join([f"mount -t tmpfs -o {options} none results", *commands])
    unshare = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    done = subprocess.run([*unshare, "sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this machine grants no mounts: {done.stderr.splitlines()[0]}")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    return done


@pytest.mark.parametrize("size, what", [("8k", "No space left on device; make room"), ("64k", "full; make room")])
def test_a_full_disk_is_one_message(folder, size, what):
    write_experiment(folder)
    done = mounted(folder, f"size={size}", f"{sys.executable} -m nas.cli search tiny.yaml")
    assert done.returncode == 1 and done.stderr.startswith("nas: results/tiny/") and what in done.stderr, done.stderr


def test_a_folder_that_can_only_be_read_is_one_message(folder):
    write_experiment(folder)
    search = f"{sys.executable} -m nas.cli search tiny.yaml"
    done = mounted(folder, "size=1M", "mount -o remount,ro none results", search)
    assert done.returncode == 1 and "nas: results/tiny: Read-only file system; take a folder" in done.stderr


def test_an_unreadable_study_is_named_and_made_anew(folder, monkeypatch, capsys):
    run_dir, experiment = Path("results/tiny"), write_experiment(folder)
    begun(run_dir, experiment)
    recorded(run_dir, 6)
    arguments = ("search", str(experiment), "--resume")
    (run_dir / "study.db").write_bytes(b"noise" * 1000)
    code, _, errors = ended(folder, monkeypatch, capsys, *arguments)
    assert code == 1 and "Traceback" not in errors
    assert errors == (
        "nas: results/tiny/study.db: file is not a database; delete it and go on with --resume: the study is made anew "
        "from the records of the trials\n"
    )
    (run_dir / "study.db").unlink()
    assert ended(folder, monkeypatch, capsys, *arguments)[0] == 0


def recorded(run_dir: Path, number: int) -> None:
    space = SearchSpace(CONFIG.space)
    for i in range(number):
        write_record(run_dir, sample_record(space, i, objectives={"top1": 0.5, "num_params": 10.0 + i}))


def test_a_run_is_gone_on_with_from_anywhere_by_the_command_that_is_printed(folder, monkeypatch, capsys):
    run_dir, other = Path("my results/tiny"), folder / "elsewhere"
    source, storage = write_experiment(folder), "search.storage=sqlite:///shared.db"
    with RunLock(run_dir / "driver.lock"), begun_run(run_dir, source, load(source, [storage]), resume=False):
        recorded(run_dir, 5)
    other.mkdir()
    code, said, _ = ended(other, monkeypatch, capsys, "status", "../my results/tiny")
    hint = said.splitlines()[-1].removeprefix("go on with: ")
    assert code == 0 and hint == "nas search --resume '../my results/tiny'"
    command = [*shlex.split(hint)[1:], "--set", "search.num_trials=5"]  # all are there, so that none is trained
    code, said, errors = ended(other, monkeypatch, capsys, *command)
    assert code == 0 and "tiny: finished, 5 of 5 trainings (5 complete)" in said, errors
    assert (folder / "shared.db").exists() and not list(other.iterdir())
    code, said, _ = ended(
        other, monkeypatch, capsys, *shlex.split(errors.splitlines()[-1])[1:], "--export", "page.html"
    )
    assert code == 0 and (other / "page.html").exists()
    code, _, errors = ended(folder, monkeypatch, capsys, "search", str(source), "--results", "my results")
    assert code == 2 and "go on with it: nas search --resume 'my results/tiny'; or choose" in errors
    for arguments in (["my results/tiny"], ["--resume", "my results/tiny", "--name", "a"], ["--resume", "my results"]):
        code, _, errors = ended(folder, monkeypatch, capsys, "search", *arguments)
        assert code == 2 and "Traceback" not in errors, errors
    changed = ["search", "--resume", "my results/tiny", "--set", "search.sampler=tpe"]
    code, _, errors = ended(folder, monkeypatch, capsys, *changed)
    assert code == 2 and "search.sampler: nsga2 -> tpe" in errors


def test_the_password_of_the_file_as_given_is_used_where_it_fits(folder):
    source, url = write_experiment(folder), "postgresql+psycopg://me:pw@host/runs"
    source.write_text(EXPERIMENT.replace("seed: 3", f"seed: 3, storage: '{url}'"))
    for options, found in (([], url), (["search.storage=postgresql+psycopg://me:pw@other/runs"], None)):
        run_dir = Path(f"results/{len(options)}")
        with RunLock(run_dir / "driver.lock"), begun_run(run_dir, source, load(source, options), resume=False):
            pass
        assert given_storage(run_dir) == (found or "postgresql+psycopg://me@other/runs")


def test_status_without_a_run_lists_all(folder, monkeypatch, capsys):
    code, _, errors = ended(folder, monkeypatch, capsys, "status")
    assert code == 2 and "there is no folder results/ here" in errors
    begun(Path("results/tiny"), write_experiment(folder))
    recorded(Path("results/tiny"), 6)
    begun(Path("results/other"), write_experiment(folder))
    code, said, _ = ended(folder, monkeypatch, capsys, "status")
    assert code == 0 and sorted(said.splitlines()) == [
        "results/other: interrupted, 0 of 6 trainings, 0 on the front",
        "results/tiny: finished, 6 of 6 trainings, 1 on the front; train: 6 networks, 72 epochs, in 2.0 min",
    ]
    code, said, _ = ended(folder, monkeypatch, capsys, "status", "--json")
    assert code == 0 and {state["run"] for state in json.loads(said)} == {"tiny", "other"}
    assert ended(folder, monkeypatch, capsys, "list", "results", "--json")[1] == said
    code, _, errors = ended(folder, monkeypatch, capsys, "list", "nowhere")
    assert code == 2 and "nas: there is no folder nowhere/ here" in errors
    assert "no network was trained at length yet" in ended(folder, monkeypatch, capsys, "list", "--retrained")[1]


def test_a_run_keeps_its_id_under_another_name(folder):
    source = write_experiment(folder)
    begun(Path("results/tiny"), source)
    first = run_id(Path("results/tiny"))
    Path("results/tiny").rename("results/moved")
    begun(Path("results/moved"), source, resume=True)
    begun(Path("results/tiny"), source)
    assert first and run_id(Path("results/moved")) == first != run_id(Path("results/tiny"))


@pytest.mark.parametrize("trains", [False, True])
def test_nothing_stays_of_a_start_that_is_refused(folder, trains):
    run_dir = plan_run("tiny", CONFIG, resume=False)
    with (
        pytest.raises(MachineError),
        RunLock(run_dir / "driver.lock"),
        begun_run(run_dir, write_experiment(folder), CONFIG, resume=False),
    ):
        write_record(run_dir, record(0, "complete" if trains else "rejected"))
        raise MachineError("constraints: nothing keeps them")
    assert run_dir.exists() == trains


def test_a_refused_driver_changes_nothing(folder, monkeypatch, capsys):
    experiment = write_experiment(folder)
    begun(Path("results/tiny"), experiment)
    write_record(Path("results/tiny"), record(0))
    with RunLock(Path("results/tiny/driver.lock")):
        before = {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}
        for options in (["--resume"], ["--resume", "--set", "search.num_trials=99"]):
            code, _, errors = ended(folder, monkeypatch, capsys, "search", str(experiment), *options)
            assert code == 2 and f"results/tiny is in use by process {os.getpid()} on " in errors
        assert before == {path: path.read_bytes() for path in Path("results").rglob("*") if path.is_file()}


def test_only_the_budget_and_the_resources_may_change(folder):
    write_run(Path("results/tiny"), write_experiment(folder), CONFIG)
    more = load(write_experiment(folder), ["search.num_trials=99", "resources.max_retries=0", "retrain.epochs=1"])
    assert plan_run("tiny", more, resume=True) == Path("results/tiny")
    other = load(write_experiment(folder), ["search.sampler=tpe"])
    with pytest.raises(RunError, match=r"search\.sampler: nsga2 -> tpe; only search\.num_trials"):
        plan_run("tiny", other, resume=True)


def test_the_lock_names_its_holder_and_is_free_when_that_dies(folder):
    path = folder / "tiny" / "driver.lock"
    assert not is_locked(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        assert is_locked(path)
        with pytest.raises(Locked, match=f"tiny is in use by process {process.pid} on "), RunLock(path):
            pass
        process.kill()
    assert not is_locked(path)
    with RunLock(path):
        assert is_locked(path)
    assert not is_locked(path) and path.read_text() == ""


def test_looking_at_a_run_keeps_no_driver_out(folder):
    """Pages and `nas status` look several times a second."""
    path = folder / "tiny" / "driver.lock"
    with RunLock(path):
        pass
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            is_locked(path)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(50):
            with RunLock(path):
                pass
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_run_that_may_only_be_read_can_be_looked_at(folder):
    path = folder / "driver.lock"
    path.touch(mode=0o444)
    assert not is_locked(path)
