"""What the page of a run is told, without a browser."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dashboard_pages import columns_of, whole_view
from helpers.run_samples import START, add_record, experiment, make_run, sample_record
from nas.dashboard.shelf import Shelf
from nas.runs.findings.effects import effects
from nas.runs.findings.volume import curve, gain
from nas.runs.pareto import front
from nas.runs.reader import RunReader
from nas.runs.record import read_records, write_record
from nas.runs.report import report
from nas.runs.retrainings import kendall, read_retrainings
from nas.space.published import PUBLISHED
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
OBJECTIVES = experiment().objectives


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("results") / "mixed", 60)


def test_events_carry_only_what_is_new(tmp_path):
    run = make_run(tmp_path / "live", 30)
    view = whole_view(run)
    head, columns = columns_of(view.snapshot())
    assert head["whole"] and sorted(columns["number"]) == list(range(30))
    records = {record.number: record for record in read_records(run)}
    for number, top1, latency in zip(columns["number"], columns["top1"], columns["latency_ms"], strict=True):
        objectives = records[int(number)].objectives
        assert latency == np.float32(objectives["latency_ms"]) and (
            top1 == np.float32(objectives.get("top1", np.nan)) or "top1" not in objectives
        )
    told = {member["number"] for member in head["members"]}
    assert head["front"] == [record.number for record in front(list(records.values()), OBJECTIVES)]
    add_record(run, SPACE, 30)
    news = view.changes(head["version"], told)
    assert news["rows"]["number"] == [30]
    assert len(json.dumps(news)) < 5000
    assert view.changes(news["version"], told)["rows"]["number"] == []
    later, added = columns_of(view.snapshot(head["version"]))
    assert not later["whole"] and added["number"].tolist() == [30] and later["version"] == news["version"]
    for unknown in ("", "x", "other-1-3-0-0", head["version"].replace("-", "-9", 1)):
        assert view.changes(unknown, told)["reset"]


def test_reading_in_pieces_ends_with_the_same(run_dir):
    pieces = RunReader(run_dir).refresh(0)
    assert len(pieces.rows) == 0 and pieces.num_unread == 60
    while pieces.refresh(0.002).num_unread:
        pass
    whole = RunReader(run_dir).refresh()
    assert {number: pieces.rows[number] for number in pieces.rows} == {
        number: whole.rows[number] for number in whole.rows
    }
    assert pieces.front() == whole.front() == front(whole.ordered(), OBJECTIVES)


def test_most_and_last_operator_of_a_trial(run_dir):
    head, columns = columns_of(whole_view(run_dir).snapshot())
    records = {record.number: record for record in read_records(run_dir)}
    for number, most, last in zip(columns["number"], columns["most"], columns["last"], strict=True):
        stages = records[int(number)].genotype["stages"]
        kinds = [[block["operator"]["op"] for block in stage] for stage in stages]
        every = list(itertools.chain(*kinds))
        assert every.count(head["operators"][most]) == max(map(every.count, every))
        assert kinds[-1].count(head["operators"][last]) == max(map(kinds[-1].count, kinds[-1]))


def test_hypervolume_is_that_of_the_report(run_dir):
    run = RunReader(run_dir).refresh()
    share = report(run_dir)["hypervolume"]["share"]
    found, now = curve(run), gain(run)
    assert found and now
    assert found["share"] == [pytest.approx(share[after - 1], abs=2e-5) for after in found["trainings"]]
    assert found["trainings"][-1] == len(share)
    assert now["share"] == pytest.approx(share[-1], abs=1e-5)
    before = dict(enumerate(share))[len(share) - now["window"] - 1]
    assert now["added"] == pytest.approx(1 - before / share[-1], abs=1e-4)


def test_hypervolumes_of_several_runs_have_one_reference(tmp_path):
    """Each by its own box, the worse search had the higher share: its only points span a small one."""
    points = {
        "better": [(0.9, 1.0), (0.95, 4.0), (0.2, 9.0)],
        "worse": [(0.5, 8.0), (0.501, 8.001), (0.499, 8.002)],
        "other": [(0.9, 1.0), (0.8, 0.5), (0.7, 0.9)],
    }
    for name, values in points.items():
        config = experiment(proxy={"epochs": 3}) if name == "other" else None
        run = make_run(tmp_path / name, 0, config)
        for number, (top1, latency) in enumerate(values):
            write_record(run, sample_record(SPACE, number, objectives={"top1": top1, "latency_ms": latency}))
    make_run(tmp_path / "empty", 0)
    shelf = Shelf(tmp_path)
    for _ in range(2):  # the second look finds nothing new
        shown = hypervolumes(shelf)
        assert shown["other"] is None and shown["empty"] is None  # another training; nothing yet
        assert shown["better"]["others"] == ["worse"] and shown["worse"]["others"] == ["better"]
        reference, ideal = (-0.2 + 0.075, 9.8), (-0.95, 1.0)
        box = (reference[0] - ideal[0]) * (reference[1] - ideal[1])
        better = (0.9 + reference[0]) * 8.8 + 0.05 * 5.8
        assert shown["better"]["share"] == pytest.approx(better / box)
        worse = (0.5 + reference[0]) * 1.8 + 0.001 * 1.799
        assert shown["worse"]["share"] == pytest.approx(worse / box)
    own = {name: gain(RunReader(tmp_path / name).refresh()) for name in ("better", "worse")}
    assert own["better"] and own["worse"] and own["better"]["share"] > 0 and own["worse"]["share"] > 0
    write_record(tmp_path / "empty", sample_record(SPACE, 0, objectives={"top1": 0.5, "latency_ms": 2.0}))
    shown = hypervolumes(shelf)
    assert len(shown["better"]["others"]) == 2 and shown["empty"]["share"] > shown["worse"]["share"]


def hypervolumes(shelf: Shelf) -> dict[str, Any]:
    """As the page of all runs has them, once all is read: a look reads for a moment, on a busy machine not all."""
    while any([view.read() for view in shelf.views()]):
        pass
    return {line["run"]: line["hypervolume"] for line in shelf.summaries()["runs"]}


def test_effects_find_what_the_figures_were_made_with(tmp_path):
    run = make_run(tmp_path / "many", 0)
    gains = {"conv3": 0.0, "inv7": 0.01, "od4": 0.02, "sc4": -0.005, "gn3": 0.03}
    for number in range(150):
        made = sample_record(SPACE, number)
        blocks = [block.operator for block in SPACE.decode(made.params).blocks]
        top1 = 0.5 + sum(gains[SPACE.label(operator)] for operator in blocks) + random.Random(number).gauss(0, 1e-3)
        write_record(run, dataclasses.replace(made, objectives=made.objectives | {"top1": top1}))
    found = effects(RunReader(run).refresh())
    assert found and found["baseline"] == "conv3" and len(found["rows"]) == 3 * 4
    inside = 0
    for row in found["rows"]:
        change = row["changes"]["top1"]
        assert change["change"] == pytest.approx(gains[row["label"]], abs=2e-3)
        inside += abs(change["change"] - gains[row["label"]]) <= change["margin"]
    assert inside >= 9  # of 12 intervals of 95 %


def test_effects_want_enough_trials(tmp_path):
    assert effects(RunReader(make_run(tmp_path / "few", 12)).refresh()) is None
    assert effects(RunReader(make_run(tmp_path / "none", 0)).refresh()) is None


def test_kendall_against_all_pairs():
    draw = random.Random(1)
    pairs = [(draw.random(), draw.random()) for _ in range(9)]
    agree = sum((a - c) * (b - d) > 0 for (a, b), (c, d) in itertools.combinations(pairs, 2))
    found = kendall(pairs)
    assert found and found["tau"] == pytest.approx((2 * agree - 36) / 36)
    assert (found["low"] or 0) < (found["tau"] or 0) < (found["high"] or 0) and found["count"] == 9
    assert kendall([(1, 1), (2, 2)]) is None and kendall([(1, 1), (1, 2), (1, 3)]) is None
    whole = kendall([(i, i) for i in range(6)])
    assert whole and whole["tau"] == 1 and whole["low"] is None


def test_retrainings_are_found_and_their_news_is_told(tmp_path):
    run = make_run(tmp_path / "trained", 12)
    view = whole_view(run)
    head, _ = columns_of(view.snapshot())
    key, number = head["members"][0]["key"], head["front"][0]
    folder = run / "retrain" / key
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"epochs": 3, "dataset": "imagefolder", "resolution": 32}))
    assert read_retrainings(run) == {}
    (folder / "metrics.csv").write_text("epoch,train_loss,top1\n1,2.0,0.5\n2,1.5,0.75\n")
    news = view.changes(head["version"], set())
    assert news["rows"]["number"] == [] and [point["number"] for point in news["retrained"]] == [number]
    assert (news["retrained"][0]["top1"], news["retrained"][0]["epochs"], news["retrained"][0]["done"]) == (
        0.75,
        2,
        False,
    )
    (folder / "config.json").write_text(json.dumps({"top1": 0.8, "best_top1": 0.81, "epochs": 3, "training": {}}))
    found = read_retrainings(run)[key]
    assert found["changed"] == pytest.approx((folder / "config.json").stat().st_mtime)
    assert found | {"curve": None} == {
        **{"top1": 0.8, "best_top1": 0.81, "epochs": 2, "asked": 3, "dataset": "imagefolder", "resolution": 32},
        **{"recipe": "", "proxy_top1": None, "changed": found["changed"]},
        **{"num_classes": None, "done": True, "curve": None, "key": key, "name": ""},
    }
    later = columns_of(view.snapshot())[0]
    assert later["published"] == []
    (folder / "config.json").write_text(json.dumps({"top1": 0.8, "num_classes": 1000}))
    published = {network["name"]: network for network in view.changes(later["version"], set())["published"]}
    assert published["rednet50"]["top1"] == 0.7835 and published["rednet50"]["values"].keys() == {"num_params"}
    assert "published" not in view.changes(view.version(), set())
    (folder / "config.json").write_text("[1")
    (folder / "metrics.csv").write_bytes(b"\xff\xfe")
    (folder / "summary.csv").write_text("epoch,eval_top1\n0,61.5\n1,62.5\n")
    assert read_retrainings(run)[key]["top1"] == pytest.approx(0.625)
    assert view.trial(number)["retrained"][0]["curve"] == [{"epoch": 0, "top1": 0.615}, {"epoch": 1, "top1": 0.625}]
    again = run / "retrain" / f"{key}-again"
    shutil.copytree(folder, again)
    (again / "config.json").write_text(json.dumps({"top1": 0.9}))
    assert [training["name"] for training in view.trial(number)["retrained"]] == ["again", ""]
    assert [point["name"] for point in columns_of(view.snapshot())[0]["retrained"]] == ["", "again"]


def test_published_networks_among_the_trials_are_named(tmp_path):
    run = make_run(tmp_path / "known", 3)
    genotype = PUBLISHED["rednet26"]
    add_record(run, SPACE, 3, key=genotype.key, genotype=genotype.to_dict())
    head, _ = columns_of(whole_view(run).snapshot())
    assert head["references"] == [{"number": 3, "name": "rednet26"}]


def test_seeds_of_one_network_make_its_spread(tmp_path):
    run = make_run(tmp_path / "seeds", 0)
    values = (0.90, 0.92, 0.97)
    for number, top1 in enumerate(values):
        same = sample_record(SPACE, 1)
        write_record(run, dataclasses.replace(same, number=number, objectives=same.objectives | {"top1": top1}))
    view = whole_view(run)
    seeds = view.front()[-1]["seeds"]
    assert seeds["numbers"] == [0, 1, 2] and seeds["sd"] == pytest.approx(np.std(values, ddof=1))
    assert view.trial(0)["seeds"]["mean"] == pytest.approx(np.mean(values))


def test_a_newer_format_is_named(tmp_path):
    run = make_run(tmp_path / "newer", 2)
    record = json.loads((run / "trials" / "1.json").read_text())
    (run / "trials" / "1.json").write_text(json.dumps(record | {"format": 7}))
    told = whole_view(run).summary()
    assert told["newer"] == 7 and told["unreadable"] == ["1.json"] and told["num_trainings"] == 1


def test_block_latency_comes_from_the_profile(tmp_path):
    from nas.measure.profile import profile_network

    run = make_run(tmp_path / "profiled", 1)
    key, genotype = (lambda record: (record.key, record.genotype))(read_records(run)[0])
    file = tmp_path / "network.json"
    file.write_text(json.dumps(genotype))
    (run / "profiles").mkdir()
    (run / "profiles" / f"{key}.json").write_text(json.dumps(profile_network(str(file), "cpu", 1, 8, "float32")))
    found = whole_view(run)
    found.summary()
    times = found.trial(0)["blocks_ms"]
    assert [len(stage) for stage in times["stages"]] == [len(stage) for stage in genotype["stages"]]
    assert all(time > 0 for stage in times["stages"] for time in stage) and times["setting"].startswith("cpu, 8 pixels")


@pytest.mark.parametrize(
    "retrain, proxy, data",
    [
        ({}, {}, ["--data", "DIR"]),
        ({"dataset": "cluttered_digits", "resolution": 32}, {}, []),
        ({"dataset": "digits"}, {"dataset": "digits"}, []),
        ({"dataset": "cifar10"}, {"dataset": "cifar10", "data_dir": "/data/my cifar"}, ["--data", "/data/my cifar"]),
        ({"dataset": "cifar10"}, {"dataset": "cifar10"}, []),
        ({"dataset": "cifar10"}, {"dataset": "imagefolder", "data_dir": "/data/imagenet"}, []),
    ],
)
def test_the_command_that_retrains_names_the_images_that_it_needs(tmp_path, retrain, proxy, data):
    run = make_run(tmp_path / "run", 1, experiment(retrain=retrain, proxy=proxy))
    view = whole_view(run)
    view.summary()
    found = shlex.split(view.trial(0)["command"])
    assert found == ["nas", "retrain", str(run), "--key", read_records(run)[0].key, *data]


def test_time_left_holds_the_true_end_mostly(tmp_path):
    """After a fifth of a search with scattered trial times the range has the true end in four of five cases."""
    from nas.runs.summary import _pace

    held = 0
    for seed in range(50):
        ends = np.cumsum(np.random.default_rng(seed).gamma(4, 5, 200))
        left = _pace(START + ends[:40], 200)["seconds_left"]
        held += left[0] <= ends[-1] - ends[39] <= left[1]
    assert held >= 40
