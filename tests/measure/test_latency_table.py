"""Latency by parts: what is measured once is kept, sums predict whole networks, and a drift is said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from helpers.searches import ended, write_experiment
from nas.config.reading import load_experiment
from nas.config.sections import ObjectiveConfig
from nas.measure import latency_table as tables
from nas.measure.latency_table import LatencyTable, check_table, measure_table, to_text
from nas.runs.folder import LATENCY_TABLE
from nas.search.storage import storage_url
from nas.search.study import Study
from nas.search.surrogate.known_costs import costs_of_run

SMALL = (
    "space.operators={conv3: {op: conv}, inv3: {op: involution, kernel_size: 3}}",
    "space.stages.0={block: basic, depth: [1, 3], width: 32}",
    "space.stages.1={block: basic, depth: [1, 4], width: 64}",
)
ASKED = ObjectiveConfig(name="latency_ms")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A space, its table, and the folder in which that is kept."""
    folder = tmp_path_factory.mktemp("table")
    _, space = load_experiment(write_experiment(folder), SMALL)
    return space, measure_table(space, 1, 8, ASKED, CPU, folder / "kept"), folder / "kept"


def test_a_table_is_measured_once_and_goes_on_where_it_was_left(measured):
    space, table, folder = measured
    (path,) = folder.glob("latency-*.json")
    assert table.path == path and len(table.milliseconds) == 10 and min(table.milliseconds.values()) >= 0
    kept, said = json.loads(path.read_text(encoding="utf-8")), []
    again = measure_table(space, 1, 8, ASKED, CPU, folder, say=said.append)
    assert again.milliseconds == table.milliseconds and said[0].startswith("10 parts of networks, 0 to be measured on ")
    lost = list(table.milliseconds)[3]
    del kept["parts"][lost]
    path.write_text(json.dumps(kept), encoding="utf-8")
    measure_table(space, 1, 8, ASKED, CPU, folder, say=said.append)
    assert said[1].startswith("10 parts of networks, 1 to be measured on ")
    assert json.loads(path.read_text(encoding="utf-8"))["parts"].keys() == table.milliseconds.keys()


def test_sums_of_parts_predict_whole_networks(measured):
    space, table, _ = measured
    for _ in range(3):  # others may keep the machine busy
        found = check_table(table, space, 10, ASKED, CPU, 8)
        if found["spearman"] > 0.6:
            break
    assert found["num_networks"] == 8 and found["spearman"] > 0.6, found
    assert 0 <= found["median_error"] <= found["p95_error"] < 1 and found["drift"] >= 0
    sums = {one["key"]: one["sum_ms"] for one in found["networks"]}
    assert len(sums) == 8 and max(sums.values()) > 1.3 * min(sums.values())
    text = to_text(table, found | {"drift": 0.05})
    assert "8 random networks by the sum of their parts: Spearman " in text
    assert "5.0% apart" in text and "that is more than 3%: measure again" in text
    assert "measure again" not in to_text(table, found | {"drift": 0.01})


def test_a_network_is_predicted_by_the_line_through_the_others():
    draw = np.random.default_rng(0)
    sums = draw.uniform(1, 5, 9)
    exact = 0.3 + 1.2 * sums
    assert tables._predicted(sums, exact) == pytest.approx(exact)
    measured = exact * draw.uniform(0.9, 1.1, 9)
    predicted = tables._predicted(sums, measured)
    for at in range(9):
        others = np.arange(9) != at
        slope, base = np.polyfit(sums[others], measured[others], 1, w=1 / measured[others])
        assert predicted[at] == pytest.approx(base + slope * sums[at])
    assert tables._ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_a_network_of_another_space_is_not_in_the_table(measured):
    space, table, _ = measured
    other = space.decode({name: values[0] for name, values in space.choices().items()})
    with pytest.raises(KeyError):
        LatencyTable(1, 16, table.milliseconds, 0.0, None).total(other)


def test_a_run_begins_with_the_table_that_fits_and_goes_on_with_it(measured, tmp_path):
    space, table, folder = measured
    sets = (*SMALL, "search.sampler=surrogate", "objectives=[{name: top1}, {name: latency_ms}]", "proxy.resolution=8")
    config, _ = load_experiment(write_experiment(tmp_path), sets)
    run_dir, kept = tmp_path / "results" / "run", tmp_path / "results" / ".cache" / "latency"
    run_dir.mkdir(parents=True)
    kept.mkdir(parents=True)
    (kept / "latency-broken.json").write_text("{}", encoding="utf-8")
    content = json.loads(next(folder.glob("*.json")).read_text(encoding="utf-8"))
    content["parts"] = dict(table.milliseconds)  # one was measured anew
    of_another = content | {"about": content["about"] | {"asked": content["about"]["asked"] | {"batch_size": 8}}}
    (kept / "latency-other.json").write_text(json.dumps(of_another), encoding="utf-8")
    lacking = content | {"parts": dict(list(content["parts"].items())[1:])}
    (kept / "latency-lacking.json").write_text(json.dumps(lacking), encoding="utf-8")
    point = {name: values[-1] for name, values in space.choices().items()}
    assert costs_of_run(config, space, run_dir).estimated(point) == {} and not (run_dir / LATENCY_TABLE).exists()
    (kept / "latency-ours.json").write_text(json.dumps(content), encoding="utf-8")
    elsewhere = content | {"about": content["about"] | {"device": "another"}}
    elsewhere["parts"] = {part: 2 * ms for part, ms in content["parts"].items()}
    (kept / "latency-elsewhere.json").write_text(json.dumps(elsewhere), encoding="utf-8")
    known = costs_of_run(config, space, run_dir)
    for each in ({name: values[at] for name, values in space.choices().items()} for at in (0, -1)):
        assert known.estimated(each)["latency_ms"] == pytest.approx(table.total(space.decode(each)))
    shutil.rmtree(kept)
    assert costs_of_run(config, space, run_dir).estimated(point) == known.estimated(point)
    study = Study(config, space, storage_url(config, run_dir), "run", known, estimated=known.estimated)
    assert study.num_measured_first == 8 < config.num_measured_first
    without = Study(config, space, storage_url(config, run_dir), "without", known)
    assert without.num_measured_first == config.num_measured_first


def test_profile_prints_the_table_of_an_experiment(tmp_path, monkeypatch, capsys):
    text = write_experiment(tmp_path).read_text(encoding="utf-8").replace("depth: [1, 2]", "depth: 1")
    text = text.replace("[basic, bottleneck]", "basic").replace("[basic, gated]", "basic").replace("[8, 16]", "8")
    (tmp_path / "tiny.yaml").write_text(text.replace("[16, 32]", "16"), encoding="utf-8")
    one = ("profile", "tiny.yaml", "--table", "--networks", "5")
    code, said, errors = ended(tmp_path, monkeypatch, capsys, *one)
    assert code == 0 and "5 random networks by the sum of their parts" in said, errors
    assert "parts of networks, 0 to" not in errors and list(tmp_path.glob("results/.cache/latency/*.json"))
    code, said, errors = ended(tmp_path, monkeypatch, capsys, *one, "--json")
    assert code == 0 and ", 0 to be measured on" in errors and len(json.loads(said)["milliseconds"]) == 12
