"""What Ray reads when it is imported, and where it keeps its files; knows nothing of Ray itself."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import zlib
from pathlib import Path
from typing import Any

from nas.base.errors import MachineError

LONGEST = 36  # bytes; a socket's path may have 107, of which Ray's session and the socket take up to 70


def prepare_environment(address: str | None) -> None:
    """Token authentication, no usage statistics, no chatter, no worker per core and no watcher of preemptions.

    `address` is that of a cluster to join, if any.
    """
    os.environ.update(
        RAY_prestart_worker_first_driver="0",
        RAY_AUTH_MODE="token",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AIR_NEW_OUTPUT="0",
        RAY_CHDIR_TO_TRIAL_DIR="0",
        RAY_TRAIN_V2_ENABLED="1",
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_PRINT_ALL_TRIAL_ERRORS="0",
        TUNE_FORCE_TRIAL_CLEANUP_S="5",
    )
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def ray_folder(run_dir: Path) -> Path:
    """Where Ray keeps its sockets, whose paths must be short: the first place of these that serves.

    In the run folder, where temporary files go, in /tmp, in shared memory. Raises MachineError where none does.
    """
    inside = (run_dir / "ray" / "s").resolve()
    name = f"opnas-{os.getuid()}-{zlib.crc32(str(run_dir.resolve()).encode()):08x}"
    outside = [Path(folder) / name for folder in (tempfile.gettempdir(), "/tmp", "/dev/shm")]
    for place in (inside, *outside):
        if len(os.fsencode(place)) <= LONGEST and (place == inside or os.access(place.parent, os.W_OK | os.X_OK)):
            return place
    raise MachineError(
        f"{run_dir}: Ray's sockets need a folder of at most {LONGEST} bytes, and none of {inside} and "
        f"{', '.join(map(str, outside))} is that short and can be written to; set TMPDIR to one"
    )


def start_ray(folder: Path, address: str | None) -> None:
    """Start Ray on this host with its files in `folder`, or join the cluster at `address`; silently."""
    import ray
    from ray.exceptions import RayError

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if address is None:
            raise
        raise MachineError(
            f"--ray-address {address}: cannot join ({str(error).splitlines()[0]}); it must be a running cluster, whose "
            "token RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH holds"
        ) from None


def stop_ray() -> None:
    import ray

    ray.shutdown()
