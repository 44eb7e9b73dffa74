"""Searches on clusters of several hosts to which things happen: cluster_campaign.py [CASE ...]

Hosts are namespaces with their own network, name, processes and disks (tests/helpers/hosts.py), so it needs root. In
each case a search of the tests' small experiment runs on three of them. Prints JSON: what became of the trials, the
driver's exit codes and the seconds that it took. Cases, all without names:

node      a host dies, as by a power cut, while its trial trains
head      the host of the cluster's head dies; the search goes on on another cluster
driver    the driver is killed; the search goes on
drain     a notice that a host is to go; it dies ten seconds later
join      a host comes while the search runs
no_disk   hosts that share no disk, checkpoints in a folder of a file server, and one of them dies
bucket    the same, checkpoints in a bucket of an S3 server
version   a host has another version of the package
missing   a host has no package
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers import buckets
from helpers.hosts import PORT, Host, hosts
from helpers.searches import outcome, results, write_experiment
from nas.bench.search.run import circumstances
from nas.runs.record import TrialRecord

ROOT = Path(__file__).parent.parent
PLAIN = {"PYTHONPATH": str(ROOT)}
NUM_TRIALS, EPOCHS = 6, 150


class Search:
    """The driver of a search, started on one of the hosts; it goes on with what is there."""

    def __init__(self, folder: Path, where: Host, head: Host, *settings: str):
        self.folder, self.log = folder, folder / "driver.log"
        sizes = [f"search.num_trials={NUM_TRIALS}", f"proxy.epochs={EPOCHS}", "resources.max_concurrent=null"]
        options = [part for setting in (*sizes, *settings) for part in ("--set", setting)]
        resume = ["--resume"] if (folder / "results/tiny/resolved.yaml").exists() else []
        command = [sys.executable, "-m", "nas.cli", "search", "tiny.yaml", "--ray-address", f"{head.address}:{PORT}"]
        self.process = where.start(*command, *options, *resume, log=self.log, **PLAIN)

    def until(self, condition: Callable[[], Any], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"waited in vain: {self.log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.1)

    def begun(self) -> list[Path]:
        return sorted((self.folder / "results/tiny/checkpoints").glob("*/attempts"))

    def trains_on(self, host: Host) -> bool:
        """Whether a trial has begun there and saved itself."""
        found = [path for path in self.begun() if f" {host.name} " in path.read_text(encoding="utf-8").splitlines()[-1]]
        return any((path.parent / "training").exists() for path in found)

    def wait(self) -> int:
        return self.process.wait(900)


def started(cpus: tuple[int, ...], nodes: list[Host], *environments: dict[str, str]) -> None:
    """A cluster without token, its head on the first host."""
    for i, (host, count) in enumerate(zip(nodes, cpus, strict=False)):
        environment = environments[i] if i < len(environments) else PLAIN
        host.ray(*(["--head"] if i == 0 else []), f"--num-cpus={count}", **environment)
    for host, _ in zip(nodes[1:], cpus[1:], strict=False):
        host.joined()


def node(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        started((0, 1, 1), nodes)
        search = Search(folder, nodes[0], nodes[0])
        search.until(lambda: search.trains_on(nodes[2]))
        nodes[2].die()
        return {"exit_codes": [search.wait()]}


def head(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        started((0, 1, 1), nodes)
        search = Search(folder, nodes[1], nodes[0])
        search.until(lambda: search.trains_on(nodes[2]))
        died = time.monotonic()
        nodes[0].die()
        codes, noticed, said = [search.wait()], time.monotonic() - died, search.log.read_text(encoding="utf-8")
    with hosts(folder, 2) as nodes:
        started((1, 1), nodes)
        codes.append(Search(folder, nodes[0], nodes[0]).wait())
    return {"exit_codes": codes, "noticed_s": round(noticed, 1), "last_line": said.strip().splitlines()[-1]}


def driver(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        started((0, 1, 1), nodes)
        search = Search(folder, nodes[0], nodes[0])
        search.until(lambda: search.trains_on(nodes[1]) and search.trains_on(nodes[2]))
        nodes[0].run("pkill", "-KILL", "-f", "nas.cli search")  # within this host's processes
        codes = [search.wait()]
        return {"exit_codes": [*codes, Search(folder, nodes[0], nodes[0]).wait()]}


def drain(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        started((0, 1, 1), nodes)
        search = Search(folder, nodes[0], nodes[0])
        search.until(lambda: any(f" {nodes[2].name} " in path.read_text(encoding="utf-8") for path in search.begun()))
        told = time.time()
        listing = "import ray; ray.init('auto', log_to_driver=False); print('NODE', *[n['NodeID'] for n in ray.nodes() "
        listing += f"if n['NodeManagerAddress'] == '{nodes[2].address}'])"
        said = nodes[0].run(sys.executable, "-c", listing, RAY_ADDRESS=f"{nodes[0].address}:{PORT}").stdout
        name = said.split("NODE ")[1].split()[0]
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", name]
        command += ["--address", f"{nodes[0].address}:{PORT}", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "spot", "--deadline-remaining-seconds", "10"]
        nodes[0].run(*command)
        noticed = time.time()
        search.until(lambda: newest(folder) > noticed)
        saved = newest(folder) - noticed
        time.sleep(max(0, noticed + 10 - time.time()))
        nodes[2].die()
        return {"exit_codes": [search.wait()], "told_s": round(noticed - told, 1), "saved_after_s": round(saved, 1)}


def newest(folder: Path) -> float:
    """When a checkpoint was last written."""
    times = []
    for path in (folder / "results/tiny/checkpoints").glob("*/training/*.json"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times, default=0.0)


def join(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        started((0, 1), nodes[:2])
        search = Search(folder, nodes[0], nodes[0])
        search.until(search.begun)
        nodes[2].ray("--num-cpus=1", **PLAIN)
        return {"exit_codes": [search.wait()]}


def no_disk(folder: Path) -> dict[str, Any]:
    with hosts(folder, 3) as nodes:
        for host in nodes[1:]:
            host.own(folder / "results")
        started((0, 1, 1), nodes)
        place = folder / "server"
        search = Search(folder, nodes[0], nodes[0], f"resources.storage_path={place}")
        search.until(lambda: list(place.glob("*/*/training/*.json")))
        nodes[2].die()
        codes = [search.wait()]
    return {"exit_codes": codes, "left": [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]}


def bucket(folder: Path) -> dict[str, Any]:
    """As `no_disk`, with the checkpoints on an S3 server that all hosts reach."""
    os.environ.update(buckets.KEYS)
    with hosts(folder, 3) as nodes, buckets.bucket(nodes[0].outside, folder / "s3.log") as files:
        for host in nodes[1:]:
            host.own(folder / "results")
        started((0, 1, 1), nodes)
        search = Search(folder, nodes[0], nodes[0], f"resources.storage_path={buckets.url(nodes[0].outside)}")
        search.until(lambda: len(in_bucket(files)) == 2)
        nodes[2].die()
        return {"exit_codes": [search.wait()], "left": buckets.kept(files)}


def in_bucket(files: Any) -> set[str]:
    """The trials that have a whole checkpoint there: ours/runs/RUN/TRIAL/training/EPOCH.json."""
    return {path.split("/")[3] for path in buckets.kept(files) if "/training/" in path and path.endswith(".json")}


def version(folder: Path) -> dict[str, Any]:
    other = folder / "other"
    for name in ("nas", "search_spaces"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "nas/__init__.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    return refused(folder, {"PYTHONPATH": str(other)})


def missing(folder: Path) -> dict[str, Any]:
    (folder / "bare").mkdir()
    (folder / "bare/nas.py").write_text("", encoding="utf-8")
    return refused(folder, {"PYTHONPATH": str(folder / "bare")})


def went_on(record: TrialRecord) -> bool:
    """Whether its last process trained only a part of it, from a checkpoint."""
    return record.attempts > 1 and record.timings["train"] < 0.9 * sum(row["seconds"] for row in record.curve)


def refused(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    with hosts(folder, 2) as nodes:
        started((1, 1), nodes, PLAIN, environment)
        search = Search(folder, nodes[0], nodes[0])
        codes, said = [search.wait()], search.log.read_text(encoding="utf-8").replace(str(folder), "FOLDER")
    return {"exit_codes": codes, "said": said.strip().splitlines(), "run_left": (folder / "results/tiny").exists()}


CASES = {case.__name__: case for case in (node, head, driver, drain, join, no_disk, bucket, version, missing)}


def happened(name: str) -> dict[str, Any]:
    """One case in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="opnas-campaign-") as place:
        folder = Path(place)
        write_experiment(folder)
        begin, load = time.monotonic(), os.getloadavg()[0]
        found = CASES[name](folder) | {"seconds": round(time.monotonic() - begin, 1), "load_before": load}
        if (folder / "results/tiny/trials").exists():
            found |= outcome(folder / "results/tiny")
            found["went_on"] = sum(map(went_on, results(folder / "results/tiny")))
            found["hosts"] = sorted({record.host for record in results(folder / "results/tiny")})
    return found


if __name__ == "__main__":
    cases = sys.argv[1:] or list(CASES)
    command = " ".join(["scripts/cluster_campaign.py", *sys.argv[1:]])
    found = circumstances() | {"command": command, "num_trials": NUM_TRIALS, "epochs": EPOCHS}
    print(json.dumps(found | {"cases": {name: happened(name) for name in cases}}, indent=1))
