"""Places that come because a search asks for them, and that two searches share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from helpers.clusters import Cluster, cluster
from helpers.searches import environment
from nas.runs.record import read_records

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "scripts")
from measure_occupancy import slept
from nas.base.ray_session import end_after_ray
slept(Path(sys.argv[1]), sys.argv[2], 0, float(sys.argv[3]), int(sys.argv[4]), "random")
end_after_ray(0)
"""


def started(folder: Path, ray: Cluster, trial_s: float, num_trials: int) -> subprocess.Popen[str]:
    """A search whose trials only sleep."""
    folder.mkdir()
    log = (folder / "log").open("w", encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(folder), ray.address, str(trial_s), str(num_trials)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, text=True, env=os.environ | environment() | ray.environment
    )


def test_a_cluster_of_no_cpus_grows_for_a_search_and_a_second_one_gets_its_half(tmp_path):
    """The real driver and Ray's autoscaler, which may start two nodes of a CPU; the first search is too long to end."""
    first, second = tmp_path / "first", tmp_path / "second"
    with cluster(0, most_nodes=2) as ray:
        long = started(first, ray, 1, 2000)
        try:
            until(long, first, "2 at once from now on, 1 before")
            assert started(second, ray, 0.5, 3).wait(200) == 0, (second / "log").read_text()
            until(long, first, "2 at once from now on, 1 before", 2)
        finally:
            long.kill()
            long.wait()
    said = (first / "log").read_text()
    assert said.startswith("no node of the cluster has what a trial asks for; the cluster is asked for one\n"), said
    assert "1 at once from now on, 2 before" in said and " 1 at once, 0 done" in (second / "log").read_text()
    assert [record.state for record in read_records(second / "run")] == ["complete"] * 3


def until(process: subprocess.Popen[str], folder: Path, words: str, times: int = 1) -> None:
    end = time.monotonic() + 200
    while (said := (folder / "log").read_text()).count(words) < times:
        assert process.poll() is None and time.monotonic() < end, said
        time.sleep(0.1)
