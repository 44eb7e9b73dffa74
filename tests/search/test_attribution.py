"""What operators do and which choices decide: known effects are found again, and shown as they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import nas
from helpers.run_samples import GAIN, PRICE, START, experiment, make_run, sample_record
from helpers.searches import ended
from nas.runs.reader import RunReader
from nas.runs.record import write_record
from nas.search.audit.attribution import attribution
from nas.search.audit.importance import importance
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
COUNT = 150


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Random networks, and one of them again with an operator changed, which gains 0.1 and 2 ms."""
    folder = make_run(tmp_path_factory.mktemp("attribution") / "run", 0)
    for number in range(COUNT):
        write_record(folder, sample_record(SPACE, number))
    first = sample_record(SPACE, 0)
    slot = {"stages.0.blocks.0.operator.bottleneck", "stages.0.blocks.0.operator"}.intersection(SPACE.choices()).pop()
    pair = [first.params | {slot: label} for label in ("conv3", "gn3")]
    for number, params in enumerate(pair, COUNT):
        genotype = SPACE.decode(params)
        values = {"top1": 0.75 + 0.1 * (number - COUNT), "latency_ms": 3.0 + 2.0 * (number - COUNT)}
        record = replace(first, number=number, params=params, key=genotype.key, genotype=genotype.to_dict())
        write_record(folder, replace(record, objectives=values, finished=START + number))
    return folder


@pytest.fixture(scope="module")
def found(run_dir):
    return attribution(RunReader(run_dir).refresh())


def effect(stage, label):
    """What an operator in the place of conv3 does to top1 and latency of the sample's networks, on average."""
    gain, price = (table[SPACE.config.operators[label].op] - table["conv"] for table in (GAIN, PRICE))
    blocks = [SPACE.decode(sample_record(SPACE, number).params).stages for number in range(COUNT)]
    top1 = [4 * gain / sum(map(len, stages)) for stages in blocks]
    latency = [stages[stage][0].width / 400 * price for stages in blocks]
    return {"top1": sum(top1) / COUNT, "latency_ms": sum(latency) / COUNT}


def test_known_effects_are_found_again_with_their_intervals(found):
    assert found["baseline"] == "conv3" and found["num_trials"] == COUNT + 2
    rows = {(row["stage"], row["label"]): row["changes"] for row in found["rows"]}
    offered = {(stage, label) for stage in range(3) for label in ("inv7", "od4", "sc4", "gn3")}
    assert rows.keys() == offered  # wherever a slot takes both the label and conv3
    for name in ("top1", "latency_ms"):
        apart = [
            abs(changes[name]["change"] - effect(*place)[name]) / changes[name]["margin"]
            for place, changes in rows.items()
        ]
        assert sum(share < 1.2 for share in apart) >= 11, (name, apart)
    dearest = rows[2, "gn3"]["latency_ms"]  # in the widest stage: beyond doubt
    assert dearest["change"] > dearest["margin"] > 0


def test_trained_networks_that_differ_in_one_operator_are_seen(found):
    rows = {(row["stage"], row["label"]): row["seen"] for row in found["rows"]}
    assert rows[0, "gn3"]["pairs"] == 1
    assert rows[0, "gn3"]["changes"] == pytest.approx({"top1": 0.1, "latency_ms": 2.0})
    assert rows[1, "gn3"] == {"pairs": 0, "changes": {}}


def test_choices_that_decide_come_first(run_dir):
    found = importance(RunReader(run_dir).refresh())
    assert found is not None and found.keys() == {"top1", "latency_ms"}
    assert all(math.isclose(sum(shares.values()), 1) for shares in found.values())
    assert list(found["latency_ms"].values()) == sorted(found["latency_ms"].values(), reverse=True)
    leading = list(found["latency_ms"])[:3]
    assert "stages.2.depth" in leading or "stages.2.width" in leading, leading


def test_report_of_the_operators_in_words_and_as_json(run_dir, found, tmp_path, monkeypatch, capsys):
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", str(run_dir), "--operators")
    assert code == 0 and "One operator in the place of conv3" in said
    line = next(line for line in said.splitlines() if line.split()[:2] == ["1", "gn3"])
    assert line.endswith("1: +10.00 %, +2.000 ms")
    assert max(map(len, said.splitlines())) <= 100 and "top-1 accuracy: stages." in said
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", str(run_dir), "--operators", "--json")
    assert json.loads(said)["operators"] == found


def test_of_few_trials_nothing_is_told(tmp_path, monkeypatch, capsys):
    folder = make_run(tmp_path / "few", 8)
    assert nas.Run(folder).attribution() == {"operators": None, "choices": None, "predictions": None}
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "report", str(folder), "--operators")
    assert code == 0 and "ten complete trials are needed" in said and "twenty complete trials are needed" in said
    assert "sixteen complete trials are needed" in said
