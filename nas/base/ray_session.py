"""Starting Ray or joining a cluster, and leaving it: environment, the folder of its sockets, signals, the end."""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nas.base.errors import MachineError
from nas.base.machine import num_cpus
from nas.base.signals import ENDING

STARTS = 3

_left: list[bool] = []  # an entry for each time that this process has left Ray

LONGEST = 36  # bytes; a socket's path may have 107, of which Ray's session and the socket take up to 70


def prepare_environment(address: str | None) -> None:
    """No usage statistics, no chatter, no worker per core and no watcher of preemptions.

    A Ray of our own, without the `address` of a cluster to join, listens on this host alone, and to those that have its
    token. On a cluster these are as the cluster and its user have them.
    """
    os.environ.update(
        RAY_prestart_worker_first_driver="0",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_TRAIN_V2_ENABLED="1",
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
        TUNE_FORCE_TRIAL_CLEANUP_S="5",
        # The searcher says how many trials there are at once. Beside it Tune would let one wait for its worker at a
        # time, and give that trial the worker of the next one that ends, which kills the worker that is starting.
        TUNE_MAX_PENDING_TRIALS_PG=str(sys.maxsize),
        TUNE_GLOBAL_CHECKPOINT_S="inf",  # nothing is restored from Tune's own state, which grows with the search
    )
    if address is None:
        # what the second asks for is a node on the loopback interface, on any system
        os.environ.update(RAY_AUTH_MODE="token", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def ray_folder(run_dir: Path) -> Path:
    """Where Ray keeps its sockets, whose paths must be short: the first folder of these that serves.

    In the run folder, where temporary files go, in /tmp, in shared memory. Raises MachineError where none does.
    """
    inside = (run_dir / "ray" / "s").resolve()
    name = f"opnas-{os.getuid()}-{zlib.crc32(str(run_dir.resolve()).encode()):08x}"
    outside = [Path(folder) / name for folder in (tempfile.gettempdir(), "/tmp", "/dev/shm")]
    for folder in (inside, *outside):
        if len(os.fsencode(folder)) <= LONGEST and (folder == inside or os.access(folder.parent, os.W_OK | os.X_OK)):
            return folder
    raise MachineError(
        f"{run_dir}: Ray's sockets need a folder of at most {LONGEST} bytes, and none of {inside} and "
        f"{', '.join(map(str, outside))} is that short and can be written to; set TMPDIR to one"
    )


def refuse_running_ray() -> None:
    """Raise MachineError where this process uses Ray already: a search would shut it down at its end."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise MachineError("Ray is running in this process already; ray.shutdown() ends it, then a search can start")


def start_ray(folder: Path, address: str | None, sent: Path | None = None) -> None:
    """Start Ray on this host, on the CPUs of this process and with its files in `folder`, or join the cluster at
    `address`, whose processes then work in a copy of the folder `sent`, if any; silently."""
    import ray
    from ray.exceptions import RayError

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(folder), "num_cpus": num_cpus()}
    else:
        options["address"] = address
        if sent is not None:
            options["runtime_env"] = {"working_dir": str(sent)}
    try:
        with _own_signals():
            if address is None:
                _start_here(options)
            else:
                ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise
        raise MachineError(
            f"--ray-address {address}: cannot join ({str(error).splitlines()[0]}); it must be a running cluster; one "
            "with tokens needs RAY_AUTH_MODE=token and its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from None


def _start_here(options: dict[str, Any]) -> None:
    """Start Ray, again where it took longer than the half minute that it grants itself, as on a busy machine."""
    import ray

    for _ in range(STARTS):
        before = _children()
        try:
            with _few_processes():
                ray.init(**options)
            return
        except Exception as error:  # a plain one is what Ray raises
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            for process in _children() - before:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    raise MachineError(f"Ray did not start on this host, {STARTS} times within half a minute each: it is too busy")


@contextmanager
def _few_processes() -> Iterator[None]:
    """Inside, a Ray that starts does without three processes, each of half a second and 70 MB: those that serve its
    dashboard, clusters that grow, and workers whose output is shown. No option of Ray's says so; another version of it,
    in which these names are not found, starts them."""
    from ray._private import node, parameter

    wanted, params, serve = {"no_monitor": True, "include_log_monitor": False}, parameter.RayParams, "start_api_server"
    if not wanted.keys() <= inspect.signature(params).parameters.keys() or not hasattr(node.Node, serve):
        yield
        return
    serving = getattr(node.Node, serve)
    setattr(parameter, params.__name__, partial(params, **wanted))
    setattr(node.Node, serve, lambda *given, **options: None)
    try:
        yield
    finally:
        setattr(parameter, params.__name__, params)
        setattr(node.Node, serve, serving)


def _children() -> set[int]:
    """The processes that this one has started (Linux)."""
    found = (path.read_text(encoding="utf-8").split() for path in Path("/proc/self/task").glob("*/children"))
    return {int(process) for processes in found for process in processes}


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this program does about signals: Ray would replace it by traces of itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing is printed to stdout, where Ray says which of its nodes and workers have died."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def stop_ray() -> None:
    """Leave Ray, and end it where this process started it."""
    import ray

    ray.shutdown()
    _left.append(True)


def times_left() -> int:
    """How often this process has left Ray: a number for each of its stays."""
    return len(_left)


def end_after_ray(code: int) -> None:
    """End this process with an exit code if it has used Ray, after what was registered with `atexit`.

    The interpreter is not taken down: threads that Ray leaves behind have been seen to crash in that, after all was
    done, and a search that has succeeded then ends by SIGSEGV.
    """
    if not _left:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.flush()
    os._exit(code)
