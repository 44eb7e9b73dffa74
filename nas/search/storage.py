"""The database of a study: opening, checking, locking for one driver, retrying calls."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.event import listen
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from nas.base.errors import HostError, MachineError, UserError, chain, host_error
from nas.base.locks import Locked, RunLock
from nas.base.passwords import hidden
from nas.config.sections import ExperimentConfig

T = TypeVar("T")
RETRY_SECONDS = 60.0
ANEW = "delete it and go on with --resume: the study is made anew from the records of the trials"
WAYS_OUT_OF_SQLITE = {
    "not a database": ANEW,
    "malformed": ANEW,
    "disk is full": "make room; nothing that finished is lost",
    "disk I/O error": "the disk is full or broken; nothing that finished is lost",
    "readonly database": "the file and its folder must be writable",
    "unable to open": "the file and its folder must be writable",
}
PASSWORD_SOURCES = "PGPASSWORD or ~/.pgpass can have the password"


def storage_url(config: ExperimentConfig, run_dir: Path) -> str:
    return config.search.storage or f"sqlite:///{run_dir / 'study.db'}"


def check_storage(url: str) -> None:
    """Raise MachineError where no study can be kept at a URL; its password is not repeated."""
    prefix = f"search.storage: {hidden(' '.join(url.split()))}"
    if url.startswith("postgres://"):
        raise MachineError(f"{prefix}: write postgresql+psycopg:// for postgres://")
    _check_password(url)
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError:
        raise MachineError(
            "search.storage: not a database URL; expected is such as postgresql+psycopg://user@host/name"
        ) from None
    except ValueError:
        raise MachineError(f"{prefix}: the port, behind the host and a colon, must be a number") from None
    if dialect not in ("sqlite", "postgresql"):
        raise MachineError(
            f"{prefix}: {dialect} has no lock that keeps a second driver out of a study; allowed are "
            "postgresql+psycopg and sqlite"
        )
    try:
        engine = create_engine(url)
        with engine.connect():
            pass
        engine.dispose()
    except ImportError as error:
        way = "pip install 'opnas[postgres]'" if error.name == "psycopg" else "write postgresql+psycopg://"
        raise MachineError(f"{prefix}: {error}; {way}") from None
    except SQLAlchemyError as error:
        said = hidden(str(error).splitlines()[0])
        way = f"; {PASSWORD_SOURCES}" if "password" in said or "authentication" in said else ""
        raise MachineError(f"{prefix}: {said}{way}") from None


def explained(error: BaseException, url: str) -> UserError | None:
    """What stopped a search, in one message that says where and names the way out; None for what is a fault of ours.

    Ray Tune wraps what is raised within it, and SQLAlchemy what the database says.
    """
    links = list(chain(error))
    for link in links:
        ours = link if isinstance(link, UserError) else host_error(link)
        if ours is not None:
            return ours
    lost = [link for link in links if isinstance(link, SQLAlchemyError | StorageInternalError)]
    if not lost:
        return None
    said = str(getattr(lost[-1], "orig", None) or lost[-1]).strip().splitlines()[0]
    shown = hidden(url).removeprefix("sqlite:///")
    for words, way in WAYS_OUT_OF_SQLITE.items():
        if words in said:
            return HostError(f"{shown}: {said}; {way}")
    return HostError(f"{shown}: {said}; nothing that finished is lost: go on with --resume when the database is back")


def _check_password(url: str) -> None:
    """Refuse a password that the URL's parts would be guessed wrong with: these would go on into messages."""
    found = re.match(r"([\w+.-]+://[^:/@]*):(.*)@", url, re.DOTALL)
    if found and re.search(r"[@/?#\[\]\s]|%(?![0-9A-Fa-f]{2})", found[2]):
        raise MachineError(
            f"search.storage: {found[1]}:***@...: the password has characters that mean something else in a URL; write "
            f"@ as %40, / as %2F, : as %3A, # as %23, ? as %3F, % as %25, or leave it out: {PASSWORD_SOURCES}"
        )


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at a URL; SQLite writes ahead, so that a proposal does not wait for the disk ten times.

    What a loss of power could take are the last trials' entries, which are made again from the records.
    """
    storage = RDBStorage(url)
    if storage.engine.dialect.name == "sqlite":
        listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # connections from before
    return storage


def _write_ahead(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def retrying(call: Callable[[], T], seconds: float = RETRY_SECONDS) -> T:
    """Repeat a storage call while the storage is locked or restarting, with growing pauses, for a limited time."""
    end, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return call()
        except (StorageInternalError, OperationalError):
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def lock_on_file(url: str, name: str) -> RunLock | None:
    """Hold a study for this driver where an SQLite file that other runs share keeps it; None for another database.

    The lock lies beside the file; it is free again when this process ends or forgets it. Raises Locked.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    path = Path(parsed.database)
    return RunLock(path.with_name(f"{path.name}.{name}.lock"), f"study {name!r} in {path}").__enter__()


def lock_on_server(server: Engine, name: str) -> Connection:
    """Hold a study for this driver on a PostgreSQL server, which frees it when the connection ends.

    A file lock cannot keep out a driver on another host. Raises Locked where another driver holds the study.
    """
    connection = server.connect().execution_options(isolation_level="AUTOCOMMIT")
    key = zlib.crc32(f"opnas {name}".encode())
    if not connection.execute(text("select pg_try_advisory_lock(:key)"), {"key": key}).scalar():
        who = connection.execute(
            text(
                "select a.client_addr, a.client_hostname, a.pid, a.backend_start from pg_locks l"
                " join pg_stat_activity a on a.pid = l.pid where l.locktype = 'advisory' and l.objid = :key"
            ),
            {"key": key},
        ).first()
        holder = f"a driver at {who[1] or who[0] or 'this host'} since {who[3]:%F %T}" if who else "another driver"
        raise Locked(f"study {name!r} is being searched by {holder}")
    return connection
