"""Which networks are retrained: the spread of a front, the controls; and what the report says of them afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, record
from nas.base.errors import UserError
from nas.config.reading import load
from nas.retrain.selection import CLOSE, all_costs, choose, operators, spread
from nas.runs.pareto import as_points, front
from nas.runs.record import read_records
from nas.runs.report import report
from nas.runs.report_text import to_text


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return make_run(tmp_path / "run", 60)


def test_the_spread_takes_the_ends_and_then_the_farthest():
    objectives = experiment().objectives
    names = [objective.name for objective in objectives]
    costs = [1.0, 1.1, 1.2, 5.0, 9.9, 10.0]
    members = [record(i, **{name: cost for name in names}) for i, cost in enumerate(costs)]
    assert [member.number for member in spread(members, objectives, 3)] == [0, 3, 5]
    assert [member.number for member in spread(members, objectives, 2)] == [0, 5]
    assert [member.number for member in spread(members, objectives, 1)] == [0]
    assert spread(members, objectives, 99) == members and spread(members[:1], objectives, 5) == members[:1]


def test_front_and_controls_are_chosen(run_dir):
    objectives = load(run_dir / "resolved.yaml").objectives
    chosen = choose(run_dir, objectives, 3)
    complete = [trial for trial in read_records(run_dir) if trial.state == "complete"]
    members = front(complete, objectives)
    picked = [chosen[f"front-{number}"] for number in (1, 2, 3)]
    assert picked[0].key == members[0].key and picked[-1].key == members[-1].key and "front-4" not in chosen
    assert {trial.key for trial in picked} <= {trial.key for trial in members}
    assert np.all(np.diff(as_points(picked, objectives)[:, 1]) != 0)
    assert len({trial.key for trial in chosen.values()}) == len(chosen)
    if "best-single-operator" in chosen:
        single = [t for t in complete if len(operators(t)) == 1 and t.key not in {trial.key for trial in picked}]
        assert chosen["best-single-operator"].objectives["top1"] == max(t.objectives["top1"] for t in single)
    cost = next(name for name in ("latency_ms", "num_macs", "num_params") if name in all_costs(picked[1]))
    aim, found = all_costs(picked[1])[cost], all_costs(chosen["random"])[cost]
    others = [t for t in complete if t.key not in {c.key for role, c in chosen.items() if role != "random"}]
    nearest = min(abs(all_costs(t)[cost] / aim - 1) for t in others)
    assert abs(found / aim - 1) <= max(CLOSE, nearest)
    assert {role: t.key for role, t in choose(run_dir, objectives, 3).items()} == {r: t.key for r, t in chosen.items()}


def test_a_run_without_networks_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no front"):
        choose(make_run(tmp_path / "run", 0), experiment().objectives, 2)


def test_the_report_compares_proxy_and_retrained(run_dir):
    """Five retrained networks in the order of their proxies but for one swap: tau-b 0.8, with its interval."""
    complete = {t.objectives["top1"]: t for t in read_records(run_dir) if t.state == "complete"}
    networks = [complete[top1] for top1 in sorted(complete)[:5]]
    for network, top1 in zip(networks, (0.71, 0.70, 0.73, 0.74, 0.75), strict=True):
        folder = run_dir / "retrain" / network.key
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"top1": top1, "best_top1": top1, "epochs": 5}))
    (run_dir / "retrain" / "selection.json").write_text(json.dumps({"front-1": networks[4].key}))
    found = report(run_dir)
    assert [entry["top1"] for entry in found["retrained"]] == [0.75, 0.74, 0.73, 0.71, 0.70]
    assert found["retrained"][0]["proxy_top1"] == networks[4].objectives["top1"]
    assert found["retrained"][0]["role"] == "front-1" and found["retrained"][1]["role"] is None
    assert found["agreement"]["tau"] == pytest.approx(0.8) and found["agreement"]["low"] < 0.8
    text = to_text(found)
    assert "Retrained, 5 networks" in text and "Kendall's tau 0.80" in text and "75.00" in text
    assert json.loads(json.dumps(found))["agreement"]["count"] == 5
