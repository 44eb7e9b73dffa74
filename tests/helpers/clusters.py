"""Ray clusters of their own on this machine: real raylets of as many CPUs as asked, that come and go."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

HEAD_ID = "f" * 51 + "00000"


class Cluster:
    """A head and the nodes that join it; `address` is what --ray-address takes."""

    def __init__(self, stack: ExitStack, num_cpus: int, most_nodes: int = 0):
        """With `most_nodes`, Ray's autoscaler starts so many nodes of a CPU where work waits for them."""
        self.stack, self.token = stack, secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        port = self.address.split(":")[1]
        options = ["--head", f"--port={port}", "--include-dashboard=false", f"--num-cpus={num_cpus}"]
        environment = {}
        if most_nodes:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "autoscaling.json"
            path.write_text(json.dumps(autoscaling(self.address, num_cpus, most_nodes)))
            options.append(f"--autoscaling-config={path}")
            environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        self._start(*options, **environment)

    @property
    def environment(self) -> dict[str, str]:
        """What processes need that join it; a node that dies is missed after some seconds, not sixteen."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_worker_niceness": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "4",
        }

    def join(self, num_cpus: int) -> subprocess.Popen[str]:
        """A node more; `die` ends it as a power cut does."""
        return self._start(f"--address={self.address}", f"--num-cpus={num_cpus}")

    def _start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats", *options]
        if "--head" in options:
            command.append(f"--temp-dir={folder}")
        log = (Path(folder) / "log").open("w+")
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            text=True,
            env=os.environ | self.environment | environment,
            start_new_session=True,
        )
        self.stack.callback(die, process)
        end = time.monotonic() + 120
        while "Ray runtime started" not in (text := Path(log.name).read_text()):
            assert process.poll() is None and time.monotonic() < end, text
            time.sleep(0.1)
        return process


def die(node: subprocess.Popen[str]) -> None:
    """SIGKILL all processes of a node, its workers among them."""
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    node.wait()


def autoscaling(address: str, num_cpus: int, most_nodes: int) -> dict[str, Any]:
    """What Ray's autoscaler needs to start nodes on this machine; a node that has no work for 12 s goes again."""
    types = {
        "ray.head.default": {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0},
        "node": {
            "resources": {"CPU": 1, "object_store_memory": 80000000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most_nodes,
        },
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    provider = {
        "type": "fake_multinode",
        "head_node_id": HEAD_ID,
        "gcs_address": address,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
    }
    return {
        "cluster_name": "ours",
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "max_workers": most_nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{command}_commands": [] for command in commands},
    }


@contextmanager
def cluster(num_cpus: int, most_nodes: int = 0) -> Iterator[Cluster]:
    """A cluster whose head has so many CPUs; see `Cluster`."""
    with ExitStack() as stack:
        yield Cluster(stack, num_cpus, most_nodes)
