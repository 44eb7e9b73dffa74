"""Several hosts on this machine: namespaces with their own network, host name, processes and mounts, on one bridge.

Needs root and Linux's `unshare`, `nsenter` and `ip`; elsewhere the tests that use it are skipped.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

RAY = {
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
PORT = 6399


class Host:
    """One host; what runs in it has its own loopback, /dev/shm, process numbers, and `disk`, a folder that others have
    empty."""

    def __init__(self, stack: ExitStack, folder: Path, bridge: str, number: int, address: str):
        self.name, self.address, self.folder = f"node{number}", address, folder
        self.disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opn")))
        command = ["unshare", "-n", "-m", "-u", "-p", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"]
        self._holder = subprocess.Popen(command)
        stack.callback(self.die)
        while not (children := psutil.Process(self._holder.pid).children()):
            time.sleep(0.01)
        self._first = children[0]
        while self._first.name() != "sleep":
            time.sleep(0.01)
        link = f"{bridge}v{number}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first.pid))
        _ip("link", "set", link, "master", bridge, "up")
        self.run(
            "sh",
            "-c",
            f"mount --make-rprivate / && hostname {self.name} && ip link set lo up && ip addr add {address}/24 dev eth0"
            f" && ip link set eth0 up && mount -t tmpfs none /dev/shm && mount -t tmpfs none {self.disk}",
        )

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the host and wait for it."""
        process = self.start(*command, log=None, **environment)
        out, _ = process.communicate(timeout=600)
        done = subprocess.CompletedProcess(command, process.returncode, out)
        assert not check or done.returncode == 0, out
        return done

    def start(self, *command: str, log: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the host and in the folder of all hosts, its output in `log` or a pipe."""
        enter = ["nsenter", "-t", str(self._first.pid), "-n", "-m", "-u", "-p", f"--wdns={self.folder}"]
        output = log.open("w") if log else subprocess.PIPE
        return subprocess.Popen(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | RAY | environment,
        )

    @property
    def outside(self) -> str:
        """The address of what runs on this machine, outside of all hosts."""
        return f"{self.address.rpartition('.')[0]}.254"

    def own(self, folder: Path) -> None:
        """Have an empty disk of its own in the place of a folder that all hosts see."""
        folder.mkdir(parents=True, exist_ok=True)
        self.run("mount", "-t", "tmpfs", "none", str(folder))

    def ray(self, *options: str, python: str = sys.executable, **environment: str) -> None:
        """Start a node of Ray: the head, with "--head", or one that joins the first host's, which is not waited for."""
        command = [python, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={self.address}"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats"]
        if "--head" in options:
            command += [f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self.disk}"]
        else:
            command.append(f"--address={self.address.rsplit('.', 1)[0]}.1:{PORT}")
        own = {"TMPDIR": str(self.disk)}
        log = self.folder / f"{self.name}.log"
        self._start_ray = lambda: self.start(*command, *options, log=log, **own | environment)
        self._ray = self._start_ray()
        if "--head" in options:
            self.wait_for_ray()

    def wait_for_ray(self) -> None:
        """Wait until the node of Ray that was started here has joined; on a busy machine Ray may give up at first."""
        end, starts = time.monotonic() + 240, 1
        while "Ray runtime started" not in (text := (self.folder / f"{self.name}.log").read_text()):
            assert time.monotonic() < end, text
            if self._ray.poll() is not None:
                assert starts < 3, text
                self._ray, starts = self._start_ray(), starts + 1
            time.sleep(0.1)

    def die(self) -> None:
        """As a power cut: all its processes end at once."""
        if self._holder.poll() is None:
            for process in psutil.Process(self._holder.pid).children():
                process.kill()
        self._holder.wait()


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """So many hosts, node1 and so on, that see `folder` in common; the first one's Ray is the cluster's head."""
    if os.geteuid() or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("hosts of namespaces need root, unshare, nsenter and ip")
    with ExitStack() as stack:
        subnet, bridge = f"10.91.{random.randrange(1, 255)}", f"opn{random.randrange(16**6):06x}"
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no bridge can be made here: {error.stderr.decode().strip()}")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        yield [Host(stack, folder, bridge, number, f"{subnet}.{number}") for number in range(1, count + 1)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
