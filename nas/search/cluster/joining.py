"""What a cluster is asked before the first trial: by a search, and by a dry run, which leaves it again."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nas.base.errors import MachineError, UserError
from nas.base.locks import RunLock
from nas.base.ray_session import quiet, start_ray, stop_ray
from nas.config.sections import ExperimentConfig
from nas.search.cluster.growth import wait_for_node
from nas.search.cluster.hosts import check_hosts, collected
from nas.search.cluster.nodes import fitting_nodes
from nas.search.cluster.places import check_fits
from nas.search.cluster.store import Store, reach


def checked_nodes(
    config: ExperimentConfig, run_dir: Path, storage: tuple[str, str] | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The nodes of the cluster that trials fit on, each asked whether it can run them, see `check_hosts`.

    A cluster that has none, and starts nodes, is asked for one. Raises MachineError.
    """
    wait_for_node(config.resources, say)
    check_fits(config.resources)
    nodes = fitting_nodes(config.resources)
    check_hosts(config, run_dir, nodes, storage)
    return nodes


def check_cluster(
    config: ExperimentConfig, run_dir: Path, address: str, ship: bool, say: Callable[[str], None]
) -> list[str]:
    """Join the cluster at `address` and ask its hosts as a search does; returns what would have that refused.

    Nothing stays in the run folder, nor of it where it was not there. Raises locks.Locked where a driver has the run.
    """
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    path = config.resources.storage_path
    storage = (path, f"{run_dir.name}-{uuid.uuid4().hex}") if path else None
    wrong = []
    with RunLock(run_dir / "driver.lock"), quiet():
        try:
            if storage:
                try:
                    reach(storage)
                except MachineError as problem:
                    wrong.append(str(problem))
                    storage = None
            (run_dir / "ray").mkdir(mode=0o700, exist_ok=True)
            start_ray(run_dir / "ray", address, collected(run_dir / "ray" / "sent") if ship else None)
            checked_nodes(config, run_dir, storage, say)
        except MachineError as problem:
            wrong.append(str(problem))
        finally:
            stop_ray()
            if storage:
                with suppress(UserError):  # it may be what cannot be reached
                    Store(*storage).drop()
            shutil.rmtree(run_dir / "ray", ignore_errors=True)
            if run_dir in missing:
                (run_dir / "driver.lock").unlink()
            for folder in missing:
                with suppress(OSError):  # another search may have made a run beside it
                    folder.rmdir()
    return wrong
