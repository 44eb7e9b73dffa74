"""The chart's axes, parallel coordinates and their filter; notes on a trial's own page; what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.dashboard_pages import served
from helpers.run_samples import add_record, experiment, make_run
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
NUM_TRIALS = 60
PLOT = "document.querySelector('#chart .plot')"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run whose trials took from one second to a thousand, and one that was only measured."""
    run = make_run(tmp_path_factory.mktemp("results") / "axes", 0)
    for number in range(NUM_TRIALS - 1):
        add_record(run, SPACE, number, seconds=1.5 * 10.0 ** (number % 4))
    add_record(run, SPACE, NUM_TRIALS - 1, state="rejected", error="measured: for its costs alone", objectives={})
    make_run(run / "longer" / "epochs-36", 5)
    return run


@pytest.fixture(scope="module")
def url(run_dir) -> Iterator[str]:
    with served(run_dir) as address:
        yield address


@pytest.fixture(scope="module")
def complete(run_dir) -> list[TrialRecord]:
    return [record for record in read_records(run_dir) if record.state == "complete"]


def trace(page: Page, name: str) -> list[tuple[float, float]]:
    page.locator("#chart[data-ready=plotly]").wait_for()
    found = page.evaluate(
        f"(name) => {{ const {{ x, y }} = {PLOT}.data.find((one) => one.name === name); return [x, y]; }}", name
    )
    return list(zip(*found, strict=True))


def axis_types(page: Page) -> list[str]:
    return page.evaluate(f"(({{ xaxis, yaxis }}) => [xaxis.type, yaxis.type])({PLOT}._fullLayout)")


def test_any_two_figures_are_axes_and_the_line_is_drawn_where_it_is_true(open_page, url, complete):
    members = front(complete, experiment().objectives)
    page = open_page(f"{url}/run/axes")
    line = trace(page, "line")
    assert line[:-1] == [pytest.approx((r.objectives["latency_ms"], 100 * r.objectives["top1"])) for r in members]
    # what the other axis shows is swapped with it, and the line goes from the best accuracy to the worst
    page.locator("#y-axis").select_option("latency_ms")
    expect(page.locator("#x-axis")).to_have_value("top1")
    expect(page.locator("#chart .xtitle")).to_have_text("top-1 accuracy (%)")
    expect(page.locator("#chart .ytitle")).to_have_text("latency (ms)")
    line = trace(page, "line")
    assert line[:-1] == [pytest.approx((100 * r.objectives["top1"], r.objectives["latency_ms"])) for r in members[::-1]]
    worst = min(100 * record.objectives["top1"] for record in complete)
    assert line[-1] == pytest.approx((worst, members[0].objectives["latency_ms"]))
    # other figures have no line, and members of the front stay marked
    page.locator("#y-axis").select_option("train_loss")
    page.locator("#x-axis").select_option("depth")
    expect(page.locator("#chart .xtitle")).to_have_text("depth (blocks)")
    expect(page.locator("#legend")).to_contain_text("Pareto front in top-1 accuracy, latency")
    expected = [(sum(map(len, r.genotype["stages"])), r.curve[-1]["train_loss"]) for r in members]
    assert trace(page, "front") == [pytest.approx(point, abs=1e-6) for point in expected]
    assert trace(page, "line") == []
    page.locator("#x-axis").select_option("seconds")  # which spans three decades
    expect(page.locator("#log")).to_be_checked()
    expect(page.locator("#ylog")).not_to_be_checked()
    page.wait_for_function(f"() => {PLOT}._fullLayout.xaxis.type === 'log'")
    page.locator("#ylog").check()
    page.locator("#log").uncheck()
    page.wait_for_function(f"() => {PLOT}._fullLayout.yaxis.type === 'log'")
    assert all(part in page.url for part in ("x=seconds", "y=train_loss", "log=0", "ylog=1"))
    page.reload()
    expect(page.locator("#chart-title")).to_have_text("Training loss against time taken")
    expect(page.locator("#chart .point").first).to_be_attached()
    assert axis_types(page) == ["linear", "log"]
    drawn = [r.curve[-1]["train_loss"] for r in members]
    assert [y for _, y in trace(page, "front")] == pytest.approx(drawn, abs=1e-6)


def drag(page: Page, name: str, low: float, high: float) -> None:
    """Along an axis of the parallel coordinates, in shares of its height."""
    rail = page.locator(f"#parallel [data-name={name}] .rail")
    rail.scroll_into_view_if_needed()
    box = rail.bounding_box()
    assert box
    at = [(box["x"] + box["width"] / 2, box["y"] + box["height"] * (1 - share)) for share in (low, high)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=3)
    page.mouse.up()


def labels_of(record: TrialRecord, stage: int) -> list[str]:
    """The labels of a stage, the most used ones of it."""
    names = {spec.op: name for name, spec in SPACE.config.operators.items()}
    labels = [names[block["operator"]["op"]] for block in record.genotype["stages"][stage]]
    return [label for label in dict.fromkeys(labels) if labels.count(label) == max(map(labels.count, labels))]


def pixels(page: Page) -> tuple[int, int]:
    """How many pixels of the lines are of a colour, and how many grey."""
    return page.evaluate(
        """() => { const { width, height } = document.querySelector("#parallel canvas");
          const paper = new OffscreenCanvas(width, height).getContext("2d");
          paper.drawImage(document.querySelector("#parallel canvas"), 0, 0);
          const { data } = paper.getImageData(0, 0, width, height);
          const count = [0, 0];
          for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] > 60) count[Math.abs(data[i] - data[i + 2]) > 60 ? 0 : 1] += 1;
          }
          return count; }"""
    )


def test_a_brush_filters_lines_table_and_chart_and_the_keyboard_does_the_same(open_page, url, run_dir, complete):
    records = read_records(run_dir)
    page = open_page(f"{url}/run/axes#colour=most")
    expect(page.locator("#front tbody tr").first).to_be_attached()
    page.locator("#trials-title").click()
    said, chart = page.locator("#trials-count"), page.locator("#filter-words")
    expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")
    assert page.locator("#parallel .rail").count() == 0, "drawn before its section was opened"
    page.locator("#parallel-title").click()
    expect(page.locator("#parallel-words")).to_contain_text(f"each of {len(complete)} complete trials")
    expect(chart).to_be_hidden()
    names = page.locator("#parallel .axis").evaluate_all("(axes) => axes.map((axis) => axis.dataset.name)")
    stages = [f"{what}{i}" for i in range(3) for what in ("operator", "depth", "width")]
    assert names[:2] == ["top1", "latency_ms"] and names[2:11] == stages, "epochs are those of all and have no axis"
    assert names[11:] == ["num_params", "num_macs", "seconds", "train_loss"]
    before, grey_before = pixels(page)
    drag(page, "top1", 0.7, 1)
    low = float(page.locator("#trials-low").input_value())
    assert page.locator("#trials-high").input_value() == "" and "in.top1" in page.url
    kept = [record for record in records if 100 * record.objectives.get("top1", 0) >= low]
    assert 5 < len(kept) < len(complete) / 2
    expect(said).to_have_text(f"{len(kept)} of {NUM_TRIALS} trials")
    both = [record for record in kept if record.state == "complete"]
    expect(chart).to_contain_text(f"Filtered: {len(both)} of {len(complete)} trials.")
    expect(page.locator("#parallel-words")).to_contain_text(f"{len(both)} of which fit the filter")
    kept_pixels, grey = pixels(page)
    assert kept_pixels < before and grey > grey_before, "the others are grey"
    members = front(complete, experiment().objectives)
    shown = [100 * r.objectives["top1"] for r in members if r in both]
    assert [y for _, y in trace(page, "front")] == pytest.approx(shown) and len(shown) < len(members)
    assert len(trace(page, "line")) == len(members) + 1, "the line is that of the whole front"
    drag(page, "operator1", 0.9, 1)  # the last of the labels alone
    expect(page.locator("#trials-values input:checked")).to_have_count(1)
    expect(page.locator("#trials-values label", has_text="gn3").locator("input")).to_be_checked()
    most = [record for record in kept if labels_of(record, 1)[0] == "gn3"]
    expect(said).to_have_text(f"{len(most)} of {NUM_TRIALS} trials")
    page.reload()
    expect(said).to_have_text(f"{len(most)} of {NUM_TRIALS} trials")
    expect(page.locator("#parallel [data-name=operator1] .brush")).to_be_visible()
    drag(page, "top1", 0.3, 0.3)  # a click drops it
    expect(page.locator("#parallel [data-name=top1] .brush")).to_be_hidden()
    expect(said).to_have_text(f"{sum(labels_of(record, 1)[0] == 'gn3' for record in records)} of {NUM_TRIALS} trials")
    page.locator("#trials-limits button", has_text="operator").press("Enter")
    expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")
    expect(chart).to_be_hidden()
    # by keyboard
    page.locator("#trials-figure").select_option("operator1")
    for label in ("conv3", "inv7", "od4", "sc4"):
        page.locator("#trials-values label", has_text=label).locator("input").press("Space")
    page.locator("#trials-figure").select_option("top1")
    page.locator("#trials-low").fill(str(low))
    page.locator("#trials-low").press("Enter")
    expect(said).to_have_text(f"{len(most)} of {NUM_TRIALS} trials")
    expect(page.locator("#parallel [data-name=top1] .brush")).to_be_visible()
    page.locator("#trials-high").fill("1")
    page.locator("#trials-high").press("Enter")
    expect(page.locator("#empty")).to_contain_text("No complete trial fits the filter")
    page.locator("#empty button").click()
    expect(said).to_have_text(f"{NUM_TRIALS} of {NUM_TRIALS} trials")
    evenly = page.evaluate("import('/static/parallel.js').then(({ sample }) => sample([...Array(20).keys()], 5))")
    assert evenly == [0, 4, 8, 12, 16]
    values = "(powers) => Array.from({ length: 1000 }, (_, i) => 10 ** ((powers * i) / 999))"
    wide = f"[1.5, 3].map({values}).concat([[-1, 500]]).map(spansDecades)"
    spans = page.evaluate(f"import('/static/axes.js').then(({{ spansDecades }}) => {wide})")
    assert spans == [False, True, False]


def test_a_trial_is_noted_on_its_own_page(open_page, url, run_dir):
    page = open_page(f"{url}/run/axes/trial/3")
    star = page.locator(".star-button")
    expect(star).to_have_text("☆ Star")
    page.get_by_label("Note on trial 3").fill("<i>again</i> with more epochs")
    with page.expect_response("**/note"):
        page.get_by_label("Note on trial 3").blur()
    with page.expect_response("**/note"):
        star.click()
    expect(page.locator(".notes [role=status]")).to_have_text("Saved in notes.json of the run.")
    expect(star).to_have_text("★ Starred")
    page.reload()
    expect(star).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Note on trial 3")).to_have_value("<i>again</i> with more epochs")
    kept = json.loads((run_dir / "notes.json").read_text(encoding="utf-8"))
    assert kept == {"3": {"star": True, "text": "<i>again</i> with more epochs"}}


def test_what_was_only_measured_is_nothing_that_went_wrong(open_page, url, run_dir):
    page = open_page(f"{url}/run/axes")
    expect(page.locator("#bad")).to_have_text("3 failed")
    expect(page.locator("#aside")).to_have_text("3 stopped early · 3 rejected · 1 only measured")
    page.locator("#aside").click()
    expect(page.locator("#failure-table tbody tr")).to_have_text(
        ["non_finite_loss3trial 13 non_finite_loss: epoch 2, step 31"]
    )
    expect(page.locator("#untrained li").last).to_contain_text("1 only measured")
    page.goto(f"{url}/run/axes#a={NUM_TRIALS - 1}")
    expect(page.locator("#panel .selected.a")).to_contain_text("only measured")
    expect(page.locator("#panel")).to_contain_text("measured: for its costs alone")
    expect(page.locator("#panel .warning")).to_have_count(0)
    page.locator("#trials-title").click()
    page.locator("#trials-state").select_option(label="only measured")
    expect(page.locator("#trials-count")).to_have_text(f"1 of {NUM_TRIALS} trials")
    page.locator("#panel .selected.a a").click()
    expect(page.locator("#state")).to_have_text("only measured")
    expect(page.locator("#parts h2").first).to_have_text("Why it was not trained")
    with served(run_dir / "longer") as longer:
        page.goto(f"{longer}/run/epochs-36")
        expect(page.locator("#circumstances")).to_contain_text("longer trainings of networks of axes · seed 7")
        expect(page.locator("#decides")).to_be_visible()
        expect(page.locator("#trust")).to_be_hidden()
        page.goto(url)
