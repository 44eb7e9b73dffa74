"""What the page says beyond the figures themselves: their noise, what decides, and all trials as a table."""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

import nas
from helpers.dashboard_pages import columns_of, get, served, whole_view
from helpers.run_samples import add_record, experiment, make_run
from nas.dashboard import export_html
from nas.runs.noise.of_run import noise_of
from nas.runs.pareto import front
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord, read_records, write_record
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
NUM_TRIALS = 60


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run whose records say on how many images they were measured, with one member of the front trained again."""
    run = make_run(tmp_path_factory.mktemp("results") / "judged", 0)
    for number in range(NUM_TRIALS):
        add_record(run, SPACE, number, num_validation=299)
    best = front(read_records(run), experiment().objectives)[-1]
    again = dataclasses.replace(best, number=1, replicate_of=best.number, objectives=best.objectives | {"top1": 0.9})
    write_record(run / "replicates" / str(best.number), again)
    return run


@pytest.fixture(scope="module")
def url(run_dir) -> Iterator[str]:
    with served(run_dir) as address:
        yield address


def test_findings_are_those_of_the_report(run_dir):
    view = whole_view(run_dir)
    head, columns = columns_of(view.findings())
    noise = noise_of(RunReader(run_dir).refresh())
    assert noise and head["noise"] == noise.to_dict() | {"contenders": noise.contenders()}
    for number, mean, error, trainings, on_front in zip(*columns.values(), strict=True):
        known = noise.of(int(number))
        assert mean == np.float32(known["mean"]) and trainings == known["num_trainings"]
        assert on_front == np.float32(known["on_front"])
        assert known["high"] == pytest.approx(min(mean + 1.96 * error, 1), abs=1e-6)
    assert head["effects"]["baseline"] == "conv3" and head["trust"] == []


def test_the_page_shows_noise_and_what_decides(open_page, url, run_dir, tmp_path):
    page = open_page(f"{url}/run/judged#a=28")
    noise = noise_of(RunReader(run_dir).refresh())
    members = front(read_records(run_dir), experiment().objectives)
    assert noise
    expect(page.locator("#noise-note")).to_contain_text("measured on 299 images")
    rows = page.locator("#front tbody tr")
    for i, record in enumerate(members):
        known = noise.of(record.number)
        shown = f"{100 * record.objectives['top1']:.2f} {100 * known['low']:.2f} – {100 * known['high']:.2f}"
        expect(rows.nth(i).locator("td").nth(2)).to_have_text(shown)
        expected = "<.01" if known["on_front"] < 0.005 else f"{known['on_front']:.2f}".replace("1.00", ">.99")
        expect(rows.nth(i).locator("td").nth(6)).to_have_text(expected)
    bars, below = page.evaluate(
        """() => { const { data } = document.querySelector("#chart .plot");
          const { error_y: bars } = data.find(({ name }) => name === "front");
          return [bars.array, bars.arrayminus]; }"""
    )
    known = noise.of(members[-1].number)
    assert known["num_trainings"] == 2
    assert bars[-1] == pytest.approx(100 * (known["high"] - members[-1].objectives["top1"]), abs=1e-4)
    assert below[-1] == pytest.approx(100 * (members[-1].objectives["top1"] - known["low"]), abs=1e-4) and below[-1] > 0
    rows.last.locator("button").click(modifiers=["Shift"])
    sure = max(p := noise.beats(28, members[-1].number), 1 - p)
    order = "A is more accurate than B" if p >= 0.5 else "B is more accurate than A"
    expect(page.locator("#panel")).to_contain_text(f"{order} with probability {sure:.2f}".replace("1.00", ">.99"))
    others = [number for number in noise.contenders() if number not in {record.number for record in members}]
    said = [f"trial {number}: {noise.of(number)['on_front']:.2f}" for number in others[:8]]
    assert said
    expect(page.locator("#noise-note button")).to_have_text(said)
    expect(page.locator("#trust")).to_contain_text("Proxy not checked")
    expect(page.locator("#changes tbody tr")).to_have_count(len(SPACE.config.operators) - 1, timeout=60_000)
    why = json.loads(get(url, "/api/run/judged/explained")[1])
    assert why == json.loads(json.dumps(nas.Run(run_dir).attribution()))
    expect(page.locator("#changes thead th")).to_have_text(["operator", "stage 1", "stage 2", "stage 3"])
    for row in why["operators"]["rows"]:
        line = page.locator("#changes tbody tr").filter(has_text=row["label"])
        change = row["changes"]["top1"]
        sign = "+" if change["change"] >= 0 else "−"
        cell = line.locator("td").nth(row["stage"] + 1).locator(".change > span").first
        expect(cell).to_have_text(f"{sign}{abs(100 * change['change']):.2f} ± {100 * change['margin']:.2f}")
        unsure = abs(change["change"]) <= change["margin"]
        expect(cell).to_have_class("quiet" if unsure else "better" if change["change"] > 0 else "worse")
    expect(page.locator("#choices tbody tr")).to_have_count(6)
    share = max(share for shares in why["choices"].values() for share in shares.values())
    expect(page.locator("#choices tbody tr").first).to_contain_text(f"{100 * share:.0f} %")
    predicted = why["predictions"]["objectives"]
    said = page.locator("#predictions-words")
    for of_objective in predicted.values():
        expect(said).to_contain_text(of_objective["words"][1:])
    page.locator("#predictions-details summary").click()
    dots = page.locator("#predictions .scatterlayer .trace:last-child .point")
    expect(dots).to_have_count(sum(len(of_objective["trials"]) for of_objective in predicted.values()))
    misses = [number for of_objective in predicted.values() for number in of_objective["misses"]]
    expect(page.locator("#misses tbody button")).to_have_text([f"trial {number}" for number in misses])
    name, number = next((name, one["misses"][0]) for name, one in predicted.items() if one["misses"])
    missed = next(trial for trial in predicted[name]["trials"] if trial["number"] == number)
    sign = "+" if missed["measured"] > missed["predicted"] else "−"
    expect(page.locator("#misses tbody tr").first.locator("td").nth(4)).to_contain_text(sign)
    page.locator("#misses tbody button").first.click()
    expect(page.locator("#panel .selected.a")).to_contain_text(f"trial {misses[0]} ")
    (tmp_path / "saved.html").write_bytes(get(url, "/run/judged/saved.html")[1])
    page.goto(f"file://{tmp_path}/saved.html")
    expect(page.locator("#choices tbody tr")).to_have_count(6)
    expect(page.locator("#noise-note")).to_contain_text("measured on 299 images")
    expect(said).to_contain_text(predicted["top1"]["words"][1:])
    page.locator("#trials-title").click()
    expect(page.locator("#trials-count")).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")


def test_all_trials_are_filtered_sorted_picked_and_written(open_page, url, run_dir, tmp_path):
    records = {record.number: record for record in read_records(run_dir)}
    page = open_page(f"{url}/run/judged")
    page.locator("#trials-title").click()
    said, rows = page.locator("#trials-count"), page.locator("#trials tbody tr[data-number]")
    expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")
    expect(rows.first).to_have_attribute("data-number", "0")
    assert 0 < rows.count() < NUM_TRIALS, "only what is in sight is in the page"
    page.locator("#trials-scroll").evaluate("(box) => box.scrollTo(0, box.scrollHeight)")
    expect(rows.last).to_have_attribute("data-number", str(NUM_TRIALS - 1))
    page.locator("#trials-state").select_option("complete")
    page.locator("#trials-operator").select_option("gn3")
    page.locator("#trials-stage").select_option("1")
    page.locator("#trials-low").fill("80")
    page.locator("#trials-low").blur()
    wanted = [
        record
        for record in records.values()
        if record.state == "complete"
        and record.objectives["top1"] >= 0.8
        and any(block["operator"]["op"] == "gnconv" for block in record.genotype["stages"][1])
    ]
    assert 3 < len(wanted) < NUM_TRIALS / 2
    expect(said).to_have_text(f"{len(wanted)} of {NUM_TRIALS} trials")
    page.locator("#trials th button", has_text="latency").click()
    wanted.sort(key=lambda record: -record.objectives["latency_ms"])
    with page.expect_download() as download:
        page.locator("#trials-csv").click()
    download.value.save_as(tmp_path / "trials.csv")
    written = list(csv.DictReader((tmp_path / "trials.csv").open(encoding="utf-8")))
    assert [int(line["trial"]) for line in written] == [record.number for record in wanted]
    for line, record in zip(written, wanted, strict=True):
        stages = record.genotype["stages"]
        assert line["key"] == record.key and line["depth"] == " ".join(str(len(stage)) for stage in stages)
        assert line["width"] == " ".join(str(stage[0]["width"]) for stage in stages)
        assert float(line["top1"]) == pytest.approx(record.objectives["top1"], rel=1e-6)
    with page.expect_download() as download:
        page.locator("#trials-json").click()
    download.value.save_as(tmp_path / "trials.json")
    assert [line["trial"] for line in json.loads((tmp_path / "trials.json").read_text())] == [r.number for r in wanted]
    rows.first.locator("button").click()
    expect(page.locator("#panel .selected.a")).to_contain_text(wanted[0].key)
    expect(page.locator("#chart .mark.a")).to_be_visible()
    page.locator("#keep").click()
    rows.nth(1).locator("button").click()
    expect(page.locator("#panel .curve .scatterlayer .trace")).to_have_count(2)
    page.locator("#panel textarea").fill("<b>try</b> at 224 pixels")
    page.locator(".star-button").click()
    expect(rows.nth(1).locator(".starred")).to_be_visible()
    kept = json.loads((run_dir / "notes.json").read_text(encoding="utf-8"))
    assert kept == {str(wanted[1].number): {"star": True, "text": "<b>try</b> at 224 pixels"}}
    page.locator("#colour").select_option("label")
    for legend in ("#legend", "#operators"):
        expect(page.locator(legend)).to_contain_text("gn3")
    page.reload()
    expect(said).to_have_text(f"{len(wanted)} of {NUM_TRIALS} trials")
    expect(rows.nth(1).locator(".starred")).to_be_visible()
    expect(page.locator("#panel .curve .scatterlayer .trace")).to_have_count(2)


def test_notes_are_taken_from_the_own_page_alone(url, run_dir):
    host = url.removeprefix("http://")
    while columns_of(get(url, "/api/run/judged")[1])[0]["summary"]["unread"]:
        pass
    note, own = b'{"star": true, "text": ""}', f"http://{host}"
    for number, body, origin, status in (
        (3, note, own, 204),
        (3, note, "http://evil.example", 403),
        (3, note, None, 403),
        (999, note, own, 404),
        (3, b'{"star": 1, "text": ""}', own, 400),
        (3, b"[" * 3000, own, 400),
        (3, b" " * 20_000, own, 413),
    ):
        request = urllib.request.Request(f"{url}/api/run/judged/trial/{number}/note", body, method="PUT")
        if origin:
            request.add_header("Origin", origin)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                found = answer.status
        except urllib.error.HTTPError as refused:
            found = refused.code
        assert found == status, (number, body[:30], origin)
    assert json.loads((run_dir / "notes.json").read_text(encoding="utf-8"))["3"] == {"star": True, "text": ""}


def test_commands_stand_as_they_are_for_the_run(tmp_path):
    latency = {"name": "latency_ms", "device": "cuda", "batch_size": 128, "dtype": "bfloat16", "runtime": "graph"}
    run = make_run(tmp_path / "run", 1, experiment(objectives=[{"name": "top1"}, latency]))
    view = whole_view(run)
    view.summary()
    trial, key = view.trial(0), read_records(run)[0].key
    measured = ["--device", "cuda", "--batch-size", "128", "--dtype", "bfloat16", "--runtime", "graph"]
    assert shlex.split(trial["profile"]) == ["nas", "profile", str(run), "--key", key, *measured]
    assert shlex.split(trial["export"]) == ["nas", "export", str(run), "--key", key]
    (run / "proxy" / key).mkdir(parents=True)
    (run / "proxy" / key / "config.json").write_text("{}", encoding="utf-8")
    assert shlex.split(view.trial(0)["export"])[-2:] == ["--weights", "proxy"]


def test_every_field_filters_and_every_column_sorts(open_page, url, run_dir, tmp_path):
    """Each filter by itself against the records; unknown figures last, whichever way they are sorted."""
    (run_dir / "notes.json").write_text(
        json.dumps({"4": {"star": True, "text": "=1+1"}, "9": {"star": False, "text": "=b"}})
    )
    records = read_records(run_dir)
    page = open_page(f"{url}/run/judged")
    page.locator("#trials-title").click()
    said, rows = page.locator("#trials-count"), page.locator("#trials tbody tr[data-number]")

    def told(kept: int) -> None:
        expect(said).to_have_text(f"{kept} of {NUM_TRIALS} trials")
        page.locator("#trials-clear").click()
        expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")

    def having(test: Callable[[dict], bool]) -> int:
        kept = sum(any(test(block) for stage in record.genotype["stages"] for block in stage) for record in records)
        assert 0 < kept < NUM_TRIALS
        return kept

    expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")
    page.locator("#trials-state").select_option("stopped")
    told(sum(record.state == "stopped" for record in records))
    page.locator("#trials-operator").select_option("op:odconv")
    told(having(lambda block: block["operator"]["op"] == "odconv"))
    least = min(block["width"] for record in records for stage in record.genotype["stages"] for block in stage)
    page.locator("#trials-width").select_option(str(least))
    told(having(lambda block: block["width"] == least))
    for value, kept in (("star", 1), ("text", 2)):
        page.locator("#trials-noted").select_option(value)
        told(kept)
    page.locator("#trials-high").fill("80")
    page.locator("#trials-high").blur()
    told(sum(record.objectives.get("top1", 1) <= 0.8 for record in records))
    page.locator("#trials-figure").select_option("depth0")
    depths, limit = [len(record.genotype["stages"][0]) for record in records], page.locator("#trials-limits button")
    for low, high, words in (("2", "", "at least 2"), ("", "1", "at most 1"), ("1", "1", "1")):
        for end, value in (("low", low), ("high", high)):
            page.locator(f"#trials-{end}").fill(value)
            page.locator(f"#trials-{end}").blur()
        expect(limit).to_have_text(f"depth, stage 1 {words} blocks ✕")
        told(sum(depth == (2 if low == "2" else 1) for depth in depths))
    assert {*depths} == {1, 2}
    page.locator("#trials-figure").select_option("operator0")
    box = page.locator("#trials-values input").first
    box.uncheck()
    expect(limit).to_have_count(1)
    box.check()  # all of them are no limit
    expect(limit).to_have_count(0)
    page.locator("#trials-figure").select_option("top1")
    heading = page.locator("#trials th button", has_text="top-1 accuracy")
    known = sorted(record.objectives["top1"] for record in records if "top1" in record.objectives)
    for down, first in ((True, known[-1]), (False, known[0])):
        heading.press("Enter")
        expect(page.locator("#trials th[aria-sort]")).to_have_attribute(
            "aria-sort", "descending" if down else "ascending"
        )
        expect(rows.first.locator("td").nth(3)).to_have_text(f"{100 * first:.2f}")
        assert heading.evaluate("(button) => button === document.activeElement")
        page.locator("#trials-scroll").evaluate("(box) => box.scrollTo(0, box.scrollHeight)")
        expect(rows.last.locator("td").nth(3)).to_have_text("–")
    for name in ("csv", "json"):
        with page.expect_download() as download:
            page.locator(f"#trials-{name}").click()
        download.value.save_as(tmp_path / f"trials.{name}")
    written = {line["trial"]: line for line in json.loads((tmp_path / "trials.json").read_text(encoding="utf-8"))}
    assert written[13]["top1"] is None and written[4]["note"] == "★ =1+1" and written[9]["note"] == "=b"
    in_order = list(csv.DictReader((tmp_path / "trials.csv").open(encoding="utf-8")))
    sorted_top1 = [line["top1"] for line in in_order]
    assert [float(top1) for top1 in sorted_top1[: len(known)]] == pytest.approx(known)
    assert {*sorted_top1[len(known) :]} == {""}
    lines = {line["trial"]: line for line in in_order}
    ended = next(record.finished for record in records if record.number == 4)
    assert datetime.fromisoformat(lines["4"]["finished"].replace("Z", "+00:00")).timestamp() == pytest.approx(
        ended, abs=0.001
    )
    assert lines["13"]["top1"] == "" and lines["4"]["note"] == "★ =1+1" and lines["9"]["note"] == "'=b"
    page.locator("#trials-scroll").evaluate("(box) => box.scrollTo(0, 0)")
    rows.nth(0).locator("button").click()
    rows.nth(0).locator("button").click(modifiers=["Shift"])
    expect(page.locator("#panel .selected.b")).to_be_visible()
    assert rows.nth(0).get_attribute("class") == "picked-a"
    rows.nth(1).locator("button").click(modifiers=["Shift"])
    expect(page.locator("#panel .selected.b")).to_contain_text(f"trial {rows.nth(1).get_attribute('data-number')} ")
    page.locator("#panel button", has_text="Drop B").click()
    page.locator("#keep").click()
    expect(page.locator("#panel button", has_text="Drop trial")).to_have_count(1)
    page.locator("#panel button", has_text="Drop trial").click()
    expect(page.locator("#keep")).to_be_visible()
    assert "kept" not in page.url


def test_labels_of_one_operator_have_colours_of_their_own_and_bars_are_taken_away(open_page, tmp_path):
    operators = {"gn2": {"op": "gnconv", "order": 2}, "gn4": {"op": "gnconv", "order": 4}}
    stages = [{"block": "basic", "depth": [1, 2], "width": [32, 64]}] * 2
    config = experiment(space={"stem": "small", "operators": operators, "mix": "per_stage", "stages": stages})
    run = make_run(tmp_path / "labels", 0, config)
    space = SearchSpace(config.space)
    for number in range(12):
        add_record(
            run,
            space,
            number,
            num_validation=299,
            objectives={"top1": 0.5 + number / 99, "latency_ms": 1.0 + number % 5},
        )
    (run / "notes.json").write_text(json.dumps({"11": {"star": True, "text": "kept <b>"}}))
    longer = make_run(run / "longer" / "epochs-36", 0, experiment(objectives=[{"name": "top1"}], proxy={"epochs": 36}))
    for number in range(10):
        same = space_record(run, number)
        write_record(longer, dataclasses.replace(same, objectives={"top1": 0.6 + (number == 0) / 5 + number / 99}))
    export_html(run, tmp_path / "saved.html", explained=False)
    page = open_page(f"file://{tmp_path}/saved.html#a=11&colour=label")
    expect(page.locator("#panel .note", has_text="★ kept <b>")).to_be_visible()
    colours = page.locator("#legend .swatch").evaluate_all("(marks) => marks.map((mark) => mark.style.background)")
    assert len(set(colours)) == len(colours) == 2
    trust = whole_view(run)
    (found,) = columns_of(trust.findings())[0]["trust"]
    expect(page.locator("#trust")).to_contain_text(found["verdict"].split(":", 1)[1].strip())
    expect(page.locator("#trust")).to_contain_text(f"{found['num_networks']} networks trained again with epochs 36")
    assert found["regret"] > 0
    expect(page.locator("#trust")).to_contain_text(f"The best of its first five is {100 * found['regret']:.2f} % below")
    page.locator("#chart[data-ready=plotly]").wait_for()
    front = "document.querySelector('#chart .plot').data.find(({ name }) => name === 'front')"
    assert page.evaluate(f"Boolean({front}.error_y)")
    page.locator("#bars").uncheck()
    page.wait_for_function(f"() => !{front}.error_y")


def space_record(run: Path, number: int) -> TrialRecord:
    return next(record for record in read_records(run) if record.number == number)
