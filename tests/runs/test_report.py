"""Reports of run folders in every state: the data, the text, the picture, and how folders are read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.run_samples import START, add_record, experiment, make_run, sample_record
from helpers.searches import ended
from nas.base.locks import RunLock
from nas.runs.listing import find_runs
from nas.runs.metrics import METRICS
from nas.runs.pareto import front
from nas.runs.reader import RunReader, reason
from nas.runs.record import read_records
from nas.runs.report import report
from nas.runs.report_picture import FRONT_COLOUR, OPERATOR_COLOURS, OWN_COLOURS, plot
from nas.runs.report_text import runs, to_text
from nas.runs.summary import summary
from nas.space.genotype import Genotype
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("results") / "mixed", 40)


def test_front_is_that_of_the_records(run_dir):
    found = report(run_dir)
    expected = front(read_records(run_dir), experiment().objectives)
    assert [entry["number"] for entry in found["front"]] == [record.number for record in expected]
    for entry, record in zip(found["front"], expected, strict=True):
        genotype = Genotype.from_dict(entry["genotype"])
        assert genotype.key == entry["key"] == record.key
        assert entry["operators"] == [[SPACE.label(b.operator) for b in stage] for stage in genotype.stages]
        assert entry["objectives"] == record.objectives
    latencies = [entry["objectives"]["latency_ms"] for entry in found["front"]]
    assert latencies == sorted(latencies)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_counts_and_progress(run_dir):
    found = report(run_dir)
    assert found["counts"] == {"complete": 34, "stopped": 2, "failed": 2, "rejected": 2}
    assert found["failures"] == {"non_finite_loss": 2}
    assert found["rejections"] == {"constraint": 2}
    assert (found["num_trainings"], found["num_trials"], found["seed"], found["sampler"]) == (38, 60, 7, "nsga2")
    assert found["seconds"] == 800
    assert found["wall_seconds"] == 39 * 10 + 20
    assert found["device"] == "cpu: sample"
    assert found["trainings_per_minute"] == pytest.approx(60 * 37 / 390, rel=0.1)
    low, high = found["seconds_left"]
    assert low < 22 * 390 / 37 < high < 2 * 22 * 390 / 37


def test_states(tmp_path):
    run_dir = make_run(tmp_path / "mixed", 40)
    run = RunReader(run_dir).refresh()
    last = run.ordered()[-1].finished
    assert summary(run, now=last)["state"] == "interrupted"
    with RunLock(run_dir / "driver.lock"):
        assert summary(run, now=last + 99)["state"] == "running"
        assert summary(run, now=last + 101)["state"] == "quiet"
    for number in range(40, 64):
        add_record(run_dir, SPACE, number)
    assert summary(run.refresh(), now=last)["state"] == "finished"
    empty = make_run(tmp_path / "empty", 0)
    with RunLock(empty / "driver.lock"):
        assert summary(RunReader(empty).refresh(), now=last)["state"] == "waiting"


def test_hypervolume_grows_to_the_share_of_the_final_front(run_dir):
    volume = report(run_dir)["hypervolume"]
    assert len(volume["share"]) == 38
    assert (np.diff(volume["share"]) >= 0).all()
    points = np.array(
        [[-r.objectives["top1"], r.objectives["latency_ms"]] for r in read_records(run_dir) if r.state == "complete"]
    )
    low, high = points.min(0), points.max(0)
    reference = high + 0.1 * (high - low)
    assert volume["reference"] == pytest.approx({"top1": -reference[0], "latency_ms": reference[1]})
    assert volume["value"] == pytest.approx(volume["share"][-1] * np.prod(reference - low), rel=1e-4)


def test_text(run_dir):
    found = report(run_dir)
    text = to_text(found, 100)
    assert max(map(len, text.splitlines())) <= 100
    for entry in found["front"]:
        line = next(line for line in text.splitlines() if entry["key"] in line)
        assert f"{entry['objectives']['top1'] * 100:.2f}" in line
        assert f"{entry['costs']['num_params'] / 1e6:.3f}" in line
        assert " | " in line
        disturbed = entry["costs"]["latency_ms"], entry["number"] in found["disturbed"]
        assert f" {disturbed[0]:.3f}{'*' if disturbed[1] else ' '}" in line
    assert "latency*: others used the device, also when repeated; may be too high: trial 4, 12, " in text
    assert "38 of 60 trainings (34 complete, 2 stopped, 2 failed, 2 rejected)" in text
    assert "failed: non_finite_loss 2" in text
    assert runs(["a", "b", "b", "a"]) == [("a", 1), ("b", 2), ("a", 1)]


@pytest.mark.parametrize("value, text", [(0.88125, "88.13"), (0.75625, "75.63"), (0.8812, "88.12"), (1.0, "100.00")])
def test_halves_are_rounded_as_the_page_does(value, text):
    assert METRICS["top1"].text(value) == text


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_shows_cloud_front_and_operators(run_dir, tmp_path, ending):
    picture = tmp_path / f"front.{ending}"
    plot(run_dir, picture)
    if ending == "png":
        from matplotlib.image import imread

        pixels = (imread(picture)[..., :3] * 255).round().astype(int).reshape(-1, 3)
        kinds = {Genotype.from_dict(e["genotype"]).blocks[0].operator.op for e in report(run_dir)["front"]}
        for colour in [FRONT_COLOUR, *(OPERATOR_COLOURS[kind] for kind in kinds)]:
            wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (np.abs(pixels - wanted).max(1) <= 2).sum() > 50, colour
    else:
        assert picture.read_text().startswith("<?xml")


def test_plot_says_what_is_wrong(run_dir, tmp_path):
    with pytest.raises(ValueError, match=r"allowed endings are .*png"):
        plot(run_dir, tmp_path / "front.xyz")
    with pytest.raises(ValueError, match="No trial has finished yet"):
        plot(make_run(tmp_path / "empty", 0), tmp_path / "front.png")


def test_empty_and_failed_runs(tmp_path):
    empty = report(make_run(tmp_path / "empty", 0))
    assert (empty["state"], empty["front"], empty["hypervolume"]) == ("interrupted", [], None)
    assert "No trial has finished yet." in to_text(empty)
    failed = make_run(tmp_path / "failed", 0)
    for number in range(3):
        add_record(failed, SPACE, number, state="failed", error="out of memory: 3 GB", objectives={}, curve=[])
    assert "Every training failed: out of memory (3)" in to_text(report(failed))
    stopped = make_run(tmp_path / "stopped", 0)
    add_record(stopped, SPACE, 0, state="stopped")
    assert "No trial was trained to the end yet" in to_text(report(stopped))
    with pytest.raises(ValueError, match="no run folder"):
        report(tmp_path)


def test_one_and_three_objectives(tmp_path):
    for names, members in ((["top1"], 1), (["top1", "latency_ms", "num_params"], 2)):
        config = experiment(objectives=[{"name": name} for name in names])
        folder = make_run(tmp_path / f"of{len(names)}", 0, config)
        for number in range(30):
            made = sample_record(SearchSpace(config.space), number)
            add_record(
                folder,
                SPACE,
                number,
                state="complete",
                error=None,
                objectives={n: made.costs.get(n, made.objectives.get(n)) for n in names},
            )
        found = report(folder)
        assert len(found["front"]) >= members
        assert (found["hypervolume"] is None) == (len(names) == 1)
        plot(folder, tmp_path / f"{len(names)}.png")


def test_unreadable_records_are_counted_and_named(tmp_path):
    folder = make_run(tmp_path / "torn", 5)
    good = (folder / "trials" / "1.json").read_text()
    bad = {
        "90.json": good[: len(good) // 2],
        "91.json": "[" * 100_000,
        "92.json": "[]",
        "93.json": good,
        "94.json": good.replace('"number": 1', '"number": 94').replace('"op": "', '"op": "x'),
        "95.json": good.replace('"number": 1', '"number": 95').replace('"seconds": 20.0', '"seconds": {}'),
        "96.json": good.replace('"number": 1', '"number": 96').replace('"costs": {', '"costs": [], "more": {'),
    }
    for name, text in bad.items():
        (folder / "trials" / name).write_text(text)
    (folder / "trials" / "97.json").mkdir()
    (folder / "trials" / ".5.json.half").write_text(good)
    found = report(folder)
    assert found["unreadable"] == [*sorted(bad), "97.json"]
    assert sum(found["counts"].values()) == 5
    assert "8 unreadable records left out: 90.json" in to_text(found)


def test_without_a_readable_experiment(tmp_path):
    folder = make_run(tmp_path / "bare", 8)
    with_labels = report(folder)["front"][0]["operators"]
    (folder / "resolved.yaml").write_text("space: 3\n")
    found = report(folder)
    assert "resolved.yaml:1:" in found["problem"]
    assert [o["name"] for o in found["objectives"]] == ["top1", "latency_ms"]
    assert found["front"] and found["num_trials"] is None
    assert found["front"][0]["operators"] != with_labels
    assert "the experiment cannot be read" in to_text(found)


def test_reader_opens_only_what_is_new(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "live", 6)
    run = RunReader(folder).refresh()
    opened = []
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: opened.append(path.name) or whole(path, **how))
    assert [*run.refresh().log] == [*run.rows]
    assert opened == []
    before = run.version
    add_record(folder, SPACE, 6)
    add_record(folder, SPACE, 2, seconds=99.0)
    assert [*run.refresh().log[6:]] in ([6, 2], [2, 6])
    assert sorted(opened) == ["2.json", "6.json"]
    assert run.version != before
    assert run.rows[2].seconds == 99


def test_reader_starts_anew_when_files_go_or_the_experiment_changes(tmp_path):
    folder = make_run(tmp_path / "live", 6)
    run = RunReader(folder).refresh()
    generation = run.generation
    (folder / "trials" / "3.json").unlink()
    assert sorted(run.refresh().rows) == [0, 1, 2, 4, 5]
    assert run.generation > generation
    generation = run.generation
    text = (folder / "resolved.yaml").read_text()
    (folder / "resolved.yaml").write_text(text.replace("num_trials: 60", "num_trials: 600"))
    config = run.refresh().config
    assert config and config.search.num_trials == 600
    assert run.generation > generation and len(run.rows) == 5


def test_reader_repairs_and_orders(tmp_path):
    folder = make_run(tmp_path / "live", 3)
    path = folder / "trials" / "1.json"
    good = path.read_text()
    path.write_text(good[:-20])
    run = RunReader(folder).refresh()
    assert (run.unreadable, sorted(run.rows)) == (["1.json"], [0, 2])
    path.write_text(good)
    assert (run.refresh().unreadable, sorted(run.rows)) == ([], [0, 1, 2])
    add_record(folder, SPACE, 3, finished=START)
    assert [row.number for row in run.refresh().ordered()] == [3, 0, 1, 2]
    assert run.record(3).number == 3
    with pytest.raises(KeyError):
        run.record(4)


def test_find_runs(tmp_path):
    first, second = make_run(tmp_path / "one", 1), make_run(tmp_path / "two", 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert find_runs(tmp_path) == {"one": first, "two": second} and find_runs(second) == {"two": second}
    with pytest.raises(ValueError, match="no such folder"):
        find_runs(tmp_path / "three")


def test_words():
    assert reason("out of memory: 3 GB: more") == "out of memory"
    assert reason(None) == reason("") == "unknown"
    assert METRICS["num_params"].text(1_234_567) == "1.235"
    assert METRICS["top1"].text(None) == "–"


def test_colours_stand_out_from_white():
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in [*OPERATOR_COLOURS.values(), *OWN_COLOURS, FRONT_COLOUR]:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, colour


def test_reports_need_no_heavy_library(run_dir):
    code = (
        "import sys; from nas.runs.report import report; from nas.runs.report_text import to_text;"
        "to_text(report(sys.argv[1]));"
        "print([m for m in ('torch', 'ray', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_hold_what_the_record_says(run_dir):
    run = RunReader(run_dir).refresh()
    for record in read_records(run_dir):
        row = run.rows[record.number]
        for field in set(dataclasses.asdict(row)) - {"operators", "costs", "shape", "judged", "ended"}:
            assert getattr(row, field) == getattr(record, field), field
        assert row.value("num_macs") == record.costs["num_macs"]
        assert row.shape == tuple((stage[0]["kind"], stage[0]["width"]) for stage in record.genotype["stages"])
        last = record.curve[-1] if record.curve else {}
        assert row.ended == ({"epochs": len(record.curve), "train_loss": last["train_loss"]} if last else {})


def test_what_lies_in_another_run_is_named_as_what_it_is(tmp_path):
    run = make_run(tmp_path / "mixed", 12)
    longer = make_run(run / "longer" / "epochs-36", 3)
    again = make_run(run / "replicates" / "5", 1)
    found = {path: report(path) for path in (run, longer, again)}
    assert (found[run]["origin"], found[run]["sampler"]) == (None, "nsga2")
    assert found[longer]["origin"] == "longer trainings of networks of mixed" and found[longer]["sampler"] is None
    assert found[again]["origin"] == "further trainings of trial 5 of mixed, with other seeds"
    assert "sampler" not in to_text(found[longer]) and found[longer]["origin"] in to_text(found[longer])
    assert report(make_run(tmp_path / "longer" / "other", 3))["origin"] is None


def test_what_was_only_measured_is_not_said_to_be_rejected(tmp_path):
    run = make_run(tmp_path / "run", 12)
    add_record(run, SPACE, 12, state="rejected", error="measured: before the first training, for its costs alone")
    add_record(run, SPACE, 13, state="rejected", error="constraint: num_params 31e6 is above 30e6")
    text = to_text(report(run))
    assert "1 rejected, 1 only measured" in text and "rejected: constraint 1\n" in text


def test_findings_in_words(run_dir):
    found = report(run_dir)
    front, sentences = found["front"], found["findings"]["sentences"]
    counts = Counter(label for entry in front for label in set(entry["operators"][0]))
    most, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    assert f"of {len(front)} on the front have: stage 1 {most} {count}" in sentences[0]
    pick = found["findings"]["pick"]
    top1 = [entry["objectives"]["top1"] for entry in front]
    latency = [entry["objectives"]["latency_ms"] for entry in front]
    far = [
        ((max(top1) - a) / (max(top1) - min(top1))) ** 2 + ((b - min(latency)) / (max(latency) - min(latency))) ** 2
        for a, b in zip(top1, latency, strict=True)
    ]
    assert pick["key"] == front[far.index(min(far))]["key"] and "the knee of the front" in pick["reason"]
    text = to_text(found, 100)
    assert f"pick {pick['key']}" in text and "best values found to the reference:" in text


def test_runs_of_one_problem_are_compared_with_one_reference(tmp_path, monkeypatch, capsys):
    for name, count in (("long", 40), ("short", 12)):
        make_run(tmp_path / "results" / name, count)
    make_run(tmp_path / "results/other", 12, experiment(objectives=[{"name": "top1"}, {"name": "num_params"}]))
    code, output, _ = ended(tmp_path, monkeypatch, capsys, "status", "--json")
    found = {run["run"]: run["hypervolume"] for run in json.loads(output)}
    assert code == 0 and found["other"] is None
    assert found["long"]["share"] > found["short"]["share"] > 0 and found["short"]["others"] == ["long"]
    _, output, _ = ended(tmp_path, monkeypatch, capsys, "status")
    assert f"hypervolume {found['short']['share']:.4f} beside long" in output
