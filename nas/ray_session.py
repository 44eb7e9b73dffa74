"""What Ray reads when it is imported, and where it keeps its files; knows nothing of Ray itself."""

from __future__ import annotations

import os
import secrets
import tempfile
import zlib
from pathlib import Path


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
    """Where Ray keeps its sockets: in the run folder, or, as a socket's path is short, where temporary files go."""
    inside = (run_dir / "ray" / "s").resolve()
    if len(str(inside)) <= 36:
        return inside
    return Path(tempfile.gettempdir()) / f"opnas-{os.getuid()}-{zlib.crc32(str(run_dir.resolve()).encode()):08x}"
