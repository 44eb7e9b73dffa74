"""A search whose study a real PostgreSQL server keeps: refused twice over, restarted in the middle, nothing lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psycopg
import pytest
from test_samplers import config_of

from helpers.searches import ended, results, running, write_experiment
from nas.base.errors import MachineError
from nas.base.locks import Locked
from nas.base.passwords import without_password
from nas.search.storage import check_storage
from nas.search.study import Study

TOOLS = ("initdb", "pg_ctl", "postgres")


@dataclass(frozen=True)
class Server:
    """A server of its own in a temporary folder, on a free port of this machine."""

    tools: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://opnas@127.0.0.1:{self.port}/postgres"

    def run(self, tool: str, *arguments: str) -> None:
        command = [str(self.tools / tool), "-D", str(self.folder / "data"), *arguments]
        if os.getuid() == 0:  # the server refuses to run as root
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def restart(self) -> None:
        """As after a crash: connections are cut, the write-ahead log is replayed."""
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-m", "immediate", "restart")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folders = [*map(Path, os.environ["PATH"].split(":")), *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    tools = next((folder for folder in folders if all((folder / tool).exists() for tool in TOOLS)), None)
    if tools is None:
        pytest.skip("PostgreSQL is not installed: no initdb, pg_ctl and postgres on PATH or under /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="opnas-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Server(tools, folder, free.getsockname()[1])
    made.run("initdb", "-A", "trust", "-U", "opnas", "--no-sync")
    made.start()
    yield made
    made.run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_a_search_outlives_the_server_and_keeps_a_second_driver_out(server, tmp_path, monkeypatch, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    options = ("--set", f"search.storage={server.url}", "--set", "proxy.epochs=16")
    options += ("--set", "resources.max_concurrent=1")
    with running(here, "search", str(write_experiment(here)), *options) as driver:
        wait_for(lambda: len(list((here / "results/tiny/trials").glob("*.json"))) >= 1)
        code, _, errors = ended(there, monkeypatch, capsys, "search", str(write_experiment(there)), *options)
        assert code == 2, errors
        assert "study 'tiny' is being searched by a driver at " in errors and "Traceback" not in errors
        server.restart()
        assert driver.wait(200) == 0, (here / "driver.log").read_text()[-3000:]
    records = results(here / "results/tiny")
    assert [record.number for record in records if record.state != "rejected"] and all(
        record.state in ("complete", "rejected") for record in records
    )
    trained = [record for record in records if record.state == "complete"]
    assert len(trained) == 6 == len({record.key for record in trained}) == sum(record.attempts for record in trained)
    study = optuna.load_study(study_name="tiny", storage=server.url)
    assert Counter(trial.state.name for trial in study.trials)["COMPLETE"] == 6
    assert len(study.trials) == len(records)
    for record in trained:
        assert study.trials[record.number].values == list(record.objectives.values())
    assert not (here / "results/tiny/study.db").exists()


def test_a_study_without_records_is_refused(server, tmp_path, monkeypatch, capsys):
    """Another machine's run of the same name; its driver is gone."""
    study = optuna.create_study(storage=server.url, study_name="tiny2", directions=["maximize", "minimize"])
    study.add_trial(optuna.create_trial(values=[0.5, 100.0]))
    experiment = str(write_experiment(tmp_path, "tiny2"))
    code, _, errors = ended(
        tmp_path, monkeypatch, capsys, "search", experiment, "--set", f"search.storage={server.url}"
    )
    assert code == 2 and "whose trials this run has no records of" in errors, errors


def test_the_study_is_held_anew_after_a_restart(server):
    config, space = config_of("nsga2")
    first = Study(config, space, server.url, "held")
    first.ask()
    with pytest.raises(Locked, match=r"study 'held' is being searched by a driver at 127\.0\.0\.1 since 20"):
        Study(config, space, server.url, "held")
    server.restart()
    assert first.ask().number == 1
    with pytest.raises(Locked):
        Study(config, space, server.url, "held")
    Study(config, space, server.url, "other")


def test_a_password_is_asked_for_and_may_come_from_the_environment(server, monkeypatch):
    """What a run keeps has none; libpq's own ways make it complete again."""
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("create role guarded login password 'p@ss w/1%'")
    rules = server.folder / "data/pg_hba.conf"
    rules.write_text("host all guarded all scram-sha-256\n" + rules.read_text())
    server.run("pg_ctl", "reload")
    url = server.url.replace("//opnas@", "//guarded:p%40ss%20w%2F1%25@")
    wait_for(lambda: connects(url) and not connects(without_password(url)), 20)
    with pytest.raises(MachineError, match=r"guarded@127\.0\.0\.1.*PGPASSWORD or ~/\.pgpass can have the password"):
        check_storage(without_password(url))
    with pytest.raises(MachineError, match=r"guarded:\*\*\*@127.*authentication failed.*PGPASSWORD") as refused:
        check_storage(url.replace("p%40ss", "wrong"))
    assert "wrong" not in str(refused.value)
    monkeypatch.setenv("PGPASSWORD", "p@ss w/1%")
    check_storage(without_password(url))


def connects(url: str) -> bool:
    try:
        check_storage(url)
    except MachineError:
        return False
    return True


def test_a_server_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    experiment = str(write_experiment(tmp_path))
    url = "postgresql+psycopg://opnas:secret@127.0.0.1:1/postgres"
    code, _, errors = ended(tmp_path, monkeypatch, capsys, "search", experiment, "--set", f"search.storage={url}")
    assert code == 2 and "search.storage: postgresql+psycopg://opnas:***@127.0.0.1:1" in errors
    assert "secret" not in errors and not (tmp_path / "results").exists()


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
