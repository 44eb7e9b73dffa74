"""A search on a cluster of several hosts: who may join, what each host must have, what it may lack."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

import nas
from helpers import buckets
from helpers.hosts import PORT, Host, hosts
from helpers.searches import outcome, results, write_experiment
from nas.base.errors import MachineError
from nas.search.cluster.store import reach

ROOT = Path(nas.__path__[0]).parent


def search(head: Host, *arguments: str, check: bool = False):
    command = [sys.executable, "-m", "nas.cli", "search", "tiny.yaml", "--ray-address", f"{head.address}:{PORT}"]
    return head.run(*command, *arguments, check=check, PYTHONPATH=str(ROOT))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """An ordinary cluster, without a token, of three hosts: the second has another version of the package, and the
    third has neither the package nor the disk with the runs."""
    folder = tmp_path_factory.mktemp("mixed")
    write_experiment(folder)
    (folder / "other").mkdir()
    for name in ("nas", "search_spaces"):
        shutil.copytree(ROOT / name, folder / "other" / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "other/nas/__init__.py").open("a") as file:
        file.write("# changed\n")
    with hosts(folder, 3) as (first, second, third):
        (folder / "results").mkdir()
        third.own(folder / "results")
        first.ray("--head", "--num-cpus=1", '--resources={"fine": 1}', PYTHONPATH=str(ROOT))
        second.ray("--num-cpus=1", PYTHONPATH=str(folder / "other"))
        third.ray("--num-cpus=1", PYTHONPATH=bare(folder))
        for host in (second, third):
            host.wait_for_ray()
        yield folder, first


def bare(folder: Path) -> str:
    """A PYTHONPATH on which `nas` is no package, as where it is not installed."""
    (folder / "bare").mkdir(exist_ok=True)
    (folder / "bare/nas.py").write_text("")
    return str(folder / "bare")


def test_each_host_that_cannot_run_trials_is_named_and_nothing_stays(mixed):
    folder, head = mixed
    done = search(head)
    assert done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3 and "node1" not in done.stdout, done.stdout
    assert "node2 (10.91." in lines[1] and f"its opnas in {folder / 'other'}" in lines[1]
    assert "node3 (10.91." in lines[2] and "the package opnas is not installed" in lines[2]
    assert f"does not see the run folder {folder / 'results/tiny'}" in lines[2]
    assert not (folder / "results/tiny").exists()


def test_a_dry_run_asks_the_hosts_too_and_tells_all_at_once(mixed):
    folder, head = mixed
    before = sorted((folder / "results").iterdir())
    settings = ["--set", "search.sampler=cmaes", "--set", "resources.storage_path=/proc/ours"]
    done = search(head, "--dry-run", *settings)
    assert done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
    lines = done.stdout.strip().splitlines()
    assert "cmaes" in lines[0] and "resources.storage_path: /proc/ours" in lines[1] and len(lines) == 5, lines
    assert "node2 (10.91." in lines[3] and f"its opnas in {folder / 'other'}" in lines[3]
    assert "node3 (10.91." in lines[4] and lines[4].endswith("install it there, or send it with --ship")
    done = search(head, "--dry-run", "--set", "resources.custom={fine: 1}", check=True)
    assert "6 trainings by nsga2" in done.stdout and "160 to train with" in done.stdout, done.stdout
    assert sorted((folder / "results").iterdir()) == before


JOINED = """
import sys, time
from pathlib import Path
from nas.base.ray_session import prepare_environment, start_ray
from nas.config.reading import load_experiment
prepare_environment(sys.argv[1])
from ray.util.placement_group import placement_group, placement_group_table
from nas.search.cluster.hosts import Newcomers, name_of
from nas.search.cluster.nodes import fitting_nodes, selector, trial_bundle
start_ray(Path("unused"), sys.argv[1])
config, _ = load_experiment(Path("tiny.yaml"), [])
resources = config.resources
nodes = sorted(fitting_nodes(resources), key=name_of)
newcomers = Newcomers(config, Path("results/newcomers"), None, nodes[:1], print)
while len(newcomers.refused) < 2:
    accepted = newcomers.accepted(nodes)
    time.sleep(0.1)
print("accepted", *map(name_of, accepted))
where = selector(resources, sorted(newcomers.refused))
groups = [placement_group([trial_bundle(resources)], **where) for _ in range(2)]
while not any(group.wait(0.1) for group in groups):
    pass
time.sleep(1)
print(*sorted(placement_group_table(group)["state"] for group in groups))
"""


def test_nodes_that_join_a_search_and_cannot_run_trials_are_said_and_kept_away_from(mixed):
    folder, head = mixed
    (folder / "results/newcomers/ray").mkdir(parents=True)
    command = [sys.executable, "-c", JOINED, f"{head.address}:{PORT}"]
    lines = head.run(*command, PYTHONPATH=str(ROOT)).stdout.strip().splitlines()
    assert len(lines) == 4 and lines[2] == f"accepted node1 ({head.address})", lines
    assert all("has joined and is not used: " in line for line in lines[:2]), lines
    assert lines[3] == "CREATED PENDING", "two trials on the one host that is left, though the others are free"


def test_trials_go_on_from_a_bucket_on_hosts_that_share_no_disk_and_lack_the_package(tmp_path, monkeypatch):
    """Promoted ones, and those of a host that dies; nothing is left in the bucket nor on the hosts. Before, a search
    whose latencies would be those of two kinds of processors is refused."""
    pytest.importorskip("moto.server")
    for name, value in buckets.KEYS.items():
        monkeypatch.setenv(name, value)
    path = write_experiment(tmp_path)
    text = path.read_text().replace("nsga2, num_trials: 6", "nsga2, scheduler: mo_asha, num_trials: 5")
    path.write_text(text.replace("epochs: 2", "epochs: 4").replace("class: 20", "class: 60"))
    with hosts(tmp_path, 2) as (first, second), buckets.bucket(first.outside, tmp_path / "s3.log") as files:
        second.own(tmp_path / "results")
        (tmp_path / "cpuinfo").write_text("model name : Another CPU\n")
        second.run("mount", "--bind", str(tmp_path / "cpuinfo"), "/proc/cpuinfo")
        kind = ["--num-cpus=1", '--resources={"spot": 1}', "--labels=pool=ours"]
        first.ray("--head", *kind, PYTHONPATH=bare(tmp_path))
        second.ray(*kind, PYTHONPATH=bare(tmp_path))
        second.wait_for_ray()
        settings = ["--ship", "--set", f"resources.storage_path={buckets.url(first.outside)}"]
        settings += ["--set", "resources.max_concurrent=null"]
        settings += ["--set", "resources.custom={spot: 1}", "--set", "resources.labels={pool: ours}"]
        done = search(first, *settings, "--set", "constraints={latency_ms: {max: 1000}}")
        assert done.returncode == 2 and not (tmp_path / "results/tiny").exists(), done.stdout
        assert "unlike devices" in done.stdout and f"Another CPU: node2 ({second.address})" in done.stdout
        log = tmp_path / "driver.log"
        command = [sys.executable, "-m", "nas.cli", "search", "tiny.yaml", "--ray-address", f"{first.address}:{PORT}"]
        driver = first.start(*command, *settings, log=log, PYTHONPATH=str(ROOT))
        while log.read_text().count("waits after epoch") < 3:
            assert driver.poll() is None, log.read_text()
            time.sleep(0.05)
        kept = buckets.kept(files)
        assert any(path.endswith("training/00000001.pt") for path in kept), kept
        assert not list((tmp_path / "results/tiny/checkpoints").glob("*/training"))
        second.die()
        assert driver.wait(240) == 0, log.read_text()
        assert not buckets.kept(files)
        left = first.run("find", str(first.disk), "-path", "*opnas-scratch*/tiny-*").stdout
        assert not left, left
    found = outcome(tmp_path / "results/tiny")
    assert found["trained"] == 5 and found["repeated_keys"] == found["without_record"] == 0, found
    complete = [record for record in results(tmp_path / "results/tiny") if record.state == "complete"]
    assert complete and {record.host for record in results(tmp_path / "results/tiny")} - {""} <= {"node1", "node2"}
    for record in complete:
        assert [row["epoch"] for row in record.curve] == [1, 2, 3, 4] and record.attempts > 2
        # the last process did not begin anew
        assert record.timings["train"] < 0.8 * sum(row["seconds"] for row in record.curve), record


@pytest.mark.parametrize("address", ["s3://ours/runs?region=us-east-1", "gs://anonymous@ours/runs?"])
def test_a_bucket_that_does_not_answer_is_named_in_time(address):
    """A server that takes connections and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"{address}&endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        begin = time.monotonic()
        with pytest.raises(MachineError, match=r"resources\.storage_path: .*: no answer in 1 s"):
            reach((url, "run"), seconds=1)
        assert time.monotonic() - begin < 10
