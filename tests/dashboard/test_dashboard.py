"""The dashboard as its users meet it: a real server on a free port, a real browser, records that appear on disk."""

from __future__ import annotations

import csv
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.dashboard_pages import elsewhere, served
from helpers.run_samples import experiment, make_run
from nas.base.errors import UserError
from nas.dashboard import create_app, export_html, serve
from nas.runs.pareto import front
from nas.runs.record import TrialRecord, read_records
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
OBJECTIVES = experiment().objectives


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_run(folder / "mixed", 40)
    make_run(folder / "empty", 0)
    return folder


@pytest.fixture(scope="module")
def url(runs_dir) -> Iterator[str]:
    with served(runs_dir) as address:
        yield address


def point_on_screen(page: Page, record: TrialRecord) -> tuple[float, float]:
    """Where a trial is drawn, from Plotly's own axes; one that failed at the foot of them."""
    page.locator("#chart[data-ready]").wait_for()
    return page.evaluate(
        """([x, y]) => {
          const plot = document.querySelector("#chart .plot");
          const { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          const height = y === null ? yaxis._length - 9 : yaxis.d2p(y);
          return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + height];
        }""",
        [record.objectives["latency_ms"], None if record.state == "failed" else 100 * record.objectives["top1"]],
    )


def members_of(run: Path) -> list[TrialRecord]:
    return front(read_records(run), OBJECTIVES)


def test_page_shows_the_front_and_what_is_behind_it(open_page, url, runs_dir):
    page = open_page(f"{url}/run/mixed")
    members = members_of(runs_dir / "mixed")
    rows = page.locator("#front tbody tr")
    expect(rows).to_have_count(len(members))
    for i, record in enumerate(members):
        cells = rows.nth(i).locator("td")
        expect(cells.nth(0)).to_have_text(record.key)
        expect(cells.nth(2)).to_have_text(f"{record.objectives['top1'] * 100:.2f}")
        spread = (record.costs["latency"]["p80_ms"] - record.costs["latency"]["p20_ms"]) / 2
        star = "*" if record.costs["latency"]["disturbed"] else ""
        expect(cells.nth(3)).to_have_text(f"{record.objectives['latency_ms']:.3f}{star} ± {spread:.3f}")
    assert 0 < sum(record.costs["latency"]["disturbed"] for record in members) < len(members)
    expect(page.locator("#disturbed-note")).to_be_visible()
    expect(page.locator("#progress-text")).to_contain_text("38 of 60 trainings")
    expect(page.locator("#volume")).to_contain_text(
        re.compile(r"hypervolume 0\.\d{4}, \d\.\d % of it from the last 10 trainings")
    )
    expect(page.locator("#bad")).to_have_text("2 failed")
    expect(page.locator("#aside")).to_have_text("2 stopped early · 2 rejected")
    page.locator("#bad").click()
    expect(page.locator("#failure-table tbody tr")).to_have_count(1)
    expect(page.locator("#untrained li")).to_have_text(
        ["2 stopped early", "2 rejected: beyond a limit of the experiment"]
    )
    expect(page.locator("#failure-table")).to_contain_text("non_finite_loss: epoch 2, step 31")
    expect(page.locator("#chart .xtitle")).to_have_text("latency (ms)")
    expect(page.locator("#chart .ytitle")).to_have_text("top-1 accuracy (%)")
    expect(page.locator("#chart .scatterlayer .point").first).to_be_attached()
    drawn = page.evaluate("document.querySelector('#chart .plot').data.find(({ name }) => name === 'front').x.length")
    assert drawn == len(members)
    painted = page.evaluate(
        """() => { const canvas = document.querySelector("#chart canvas");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return pixels.filter((value, i) => i % 4 === 3 && value > 0).length; }"""
    )
    dominated = sum(record.state == "complete" for record in read_records(runs_dir / "mixed")) - len(members)
    assert dominated * 10 < painted < dominated * 60


def test_click_selects_a_and_shift_click_b(open_page, url, runs_dir):
    page = open_page(f"{url}/run/mixed")
    records = {record.number: record for record in read_records(runs_dir / "mixed")}
    members = members_of(runs_dir / "mixed")
    expect(page.locator("#front tbody tr")).to_have_count(len(members))
    first, last = members[0], members[-1]
    page.mouse.click(*point_on_screen(page, last))
    expect(page.locator("#panel .selected.a")).to_contain_text(f"trial {last.number} {last.key}")
    expect(page.locator("#panel .metrics tbody tr").first).to_contain_text(f"{last.objectives['top1'] * 100:.2f}")
    page.keyboard.down("Shift")
    page.mouse.click(*point_on_screen(page, first))
    page.keyboard.up("Shift")
    expect(page.locator("#panel .selected.b")).to_contain_text(f"trial {first.number} {first.key}")
    gap = (last.objectives["top1"] - first.objectives["top1"]) * 100
    expect(page.locator("#panel .metrics tbody tr").first.locator("td").nth(3)).to_have_text(f"+{gap:.2f}")
    expect(page.locator(f"#front tr[data-number='{last.number}']")).to_have_class(re.compile("picked-a"))
    assert f"a={last.number}&b={first.number}" in page.url

    dominated = next(n for n, record in records.items() if record.state == "complete" and record not in members)
    page.mouse.click(*point_on_screen(page, records[dominated]))
    expect(page.locator("#panel .selected.a")).to_contain_text(f"trial {dominated} ")
    expect(page.locator("#panel .selected.a")).to_contain_text("dominated")
    expect(page.locator("#panel .selected.b")).to_contain_text(f"trial {first.number} ")
    page.locator(f"#front tr[data-number='{last.number}'] button").click()
    expect(page.locator("#panel .selected.a")).to_contain_text(f"trial {last.number} ")


def test_architecture_of_a_is_shown_block_by_block(open_page, url, runs_dir):
    record = members_of(runs_dir / "mixed")[-1]
    page = open_page(f"{url}/run/mixed#a={record.number}")
    blocks = [block for stage in record.genotype["stages"] for block in stage]
    rows = page.locator("#panel .diagram .block")
    expect(rows).to_have_count(len(blocks))
    for i, block in enumerate(blocks):
        label = next(name for name, spec in SPACE.config.operators.items() if spec.op == block["operator"]["op"])
        expect(rows.nth(i)).to_contain_text(label)
        expect(rows.nth(i)).to_contain_text(f"{block['kind'].replace('_', ' ')} {block['width']}")
        expect(rows.nth(i).locator(f".op-{block['operator']['op']}")).to_have_count(1)
    expect(page.locator("#panel .curve .scatterlayer .point")).to_have_count(12)
    low = record.costs["latency"]["p20_ms"]
    expect(page.locator("#panel")).to_contain_text(f"between {low:.3f} and")
    expect(page.locator("#panel")).to_contain_text("cpu, batch of 1, float32, 1 thread")


def test_copied_command_is_the_one_that_retrains(open_page, url, runs_dir):
    record = members_of(runs_dir / "mixed")[0]
    page = open_page(f"{url}/run/mixed#a={record.number}")
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    command = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert command[:2] == ["nas", "retrain"] and command[3:] == ["--key", record.key, "--data", "DIR"]
    assert Path(command[2]).resolve() == (runs_dir / "mixed").resolve()


def test_axis_cap_and_csv(open_page, url, runs_dir, tmp_path):
    page = open_page(f"{url}/run/mixed")
    members = members_of(runs_dir / "mixed")
    further = ["depth (blocks)", "widest stage (channels)", "epochs", "time taken (s)", "training loss"]
    costs = ["latency (ms)", "parameters (M)", "MACs (M)"]
    expect(page.locator("#x-axis option")).to_have_text([*costs, *further, "trial"])
    expect(page.locator("#y-axis option")).to_have_text(["top-1 accuracy (%)", *costs, *further])
    with page.expect_download() as download:
        page.locator("#csv").click()
    download.value.save_as(tmp_path / "front.csv")
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert [row["key"] for row in rows] == [record.key for record in members]
    assert [float(row["top1"]) for row in rows] == [record.objectives["top1"] for record in members]
    with page.expect_download() as download:
        page.locator('#chart [data-title="Save as PNG"]').click()
    download.value.save_as(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    page.locator("#cap").fill("0.5")
    page.locator("#cap").press("Enter")
    cheapest = members[0].objectives["latency_ms"]
    expect(page.locator("#empty")).to_contain_text(f"No trial has at most 0.5 ms; the cheapest has {cheapest:.3f} ms")
    page.locator("#empty button").click()
    expect(page.locator("#front tbody tr")).to_have_count(1)
    page.locator("#x-axis").select_option("num_params")
    expect(page.locator("#chart .xtitle")).to_have_text("parameters (M)")
    expect(page.locator("#front tbody tr")).to_have_count(len(members))
    page.locator("#x-axis").select_option("number")
    expect(page.locator("#chart-title")).to_have_text("Top-1 accuracy over the search")
    page.reload()
    expect(page.locator("#x-axis")).to_have_value("number")


def test_the_whole_task_by_keyboard(open_page, url, runs_dir):
    """From the list of runs to the copied command without a mouse, every step announced."""
    members = members_of(runs_dir / "mixed")
    page = open_page(f"{url}/")
    link = page.locator("#runs a", has_text="mixed")
    expect(link).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "mixed":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#front tbody tr")).to_have_count(len(members))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    while page.evaluate("document.activeElement.id") != "cap":
        page.keyboard.press("Tab")
    limit = members[-1].objectives["latency_ms"] - 0.001
    page.keyboard.type(f"{limit:.3f}")
    page.keyboard.press("Enter")
    expect(page.locator("#front tbody tr")).to_have_count(len(members) - 1)
    while page.evaluate("document.activeElement.id") != "chart":
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    said = page.locator("#picked")
    expect(said).to_contain_text(f"A: trial {members[0].number}, ")
    expect(said).to_contain_text(f"on the front, 1 of {len(members)}")
    page.keyboard.press("b")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel .selected.a")).to_contain_text(members[1].key)
    expect(page.locator("#panel .selected.b")).to_contain_text(members[0].key)
    expect(said).to_contain_text(f"on the front, 2 of {len(members)}")
    page.keyboard.press("x")
    expect(page.locator("#panel .selected.a")).to_contain_text(members[0].key)
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("not on the front")
    page.keyboard.press("ArrowUp")
    expect(said).to_contain_text(f"A: trial {members[0].number}, ")
    page.locator("#chart[data-ready]").wait_for()
    shown = "document.querySelector('#chart .plot')._fullLayout.xaxis.range"
    whole = page.evaluate(shown)
    page.keyboard.press("+")
    page.wait_for_function(f"(before) => {shown}[0] > before", arg=whole[0])
    page.keyboard.press("0")
    page.wait_for_function(f"(before) => {shown}[0] === before", arg=whole[0])
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("c")
    expect(page.locator("#copy")).to_have_text("Copied")
    assert members[0].key in page.evaluate("navigator.clipboard.readText()")
    page.keyboard.press("r")
    assert page.evaluate("document.activeElement.contains(document.querySelector('#command'))")
    address = page.url
    again = open_page(address)
    expect(again.locator("#panel .selected.a")).to_contain_text(members[0].key)
    expect(again.locator("#cap")).to_have_value(f"{limit:.3f}".rstrip("0"))
    page.locator("#chart").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_contain_text("No network selected")


def test_a_against_b_shows_what_differs(open_page, url, runs_dir):
    a, b = members_of(runs_dir / "mixed")[:2]
    page = open_page(f"{url}/run/mixed#a={a.number}&b={b.number}")
    expect(page.locator("#panel .selected.b")).to_be_visible()
    pairs = [
        (left[i] if i < len(left) else None, right[i] if i < len(right) else None)
        for left, right in zip(a.genotype["stages"], b.genotype["stages"], strict=True)
        for i in range(max(len(left), len(right)))
    ]
    names = ("kind", "width", "operator", "stride")
    differ = sum(not (p and q) or any(p.get(name, 1) != q.get(name, 1) for name in names) for p, q in pairs)
    expect(page.locator("#panel")).to_contain_text(f"A against B: {differ} of {len(pairs)} blocks differ")
    expect(page.locator("#panel .blocks tr.differs")).to_have_count(differ)
    while page.locator("#panel .blocks button.fold").count():
        page.locator("#panel .blocks button.fold").first.click()
    expect(page.locator("#panel .blocks tbody tr")).to_have_count(len(pairs))
    expect(page.locator("#panel")).to_contain_text("Accuracy: one seed each")
    page.locator("#colour").select_option("last")
    expect(page.locator("#legend")).to_contain_text("gnconv")
    page.locator("#dominated").uncheck()
    expect(page.locator("#legend")).not_to_contain_text("gnconv")
    assert "colour=last" in page.url and "dominated=0" in page.url


def test_zoom_and_failed_trials_are_in_the_address(open_page, url, runs_dir):
    """A copied link shows the same part of the chart, with the crosses of what failed, which can be picked."""
    page = open_page(f"{url}/run/mixed")
    page.locator("#chart[data-ready=plotly]").focus()
    page.keyboard.press("+")
    page.locator("#failed").check()
    expect(page.locator("#legend")).to_contain_text("failed, at its cost")
    assert "failed=1" in page.url
    plot = "document.querySelector('#chart .plot')._fullLayout"
    shown = f"(({{ xaxis, yaxis }}) => [...xaxis.range, ...yaxis.range])({plot})"
    link, ranges = page.url, page.evaluate(shown)
    again = open_page(link)
    again.locator("#chart[data-ready=plotly]").wait_for()
    assert again.evaluate(shown) == pytest.approx(ranges, rel=1e-4)
    expect(again.locator("#failed")).to_be_checked()
    page.locator("#chart").focus()
    page.keyboard.press("0")
    assert "zoom" not in page.url
    failed = next(record for record in read_records(runs_dir / "mixed") if record.state == "failed")
    page.mouse.click(*point_on_screen(page, failed))
    expect(page.locator("#panel .selected.a")).to_contain_text(f"trial {failed.number} ")


def test_saved_page_opens_from_disk(open_page, url, runs_dir, tmp_path):
    export_html(runs_dir / "mixed", tmp_path / "saved.html", explained=False)
    record = members_of(runs_dir / "mixed")[-1]
    page = open_page(f"file://{tmp_path}/saved.html")
    expect(page.locator("#live")).to_contain_text("saved copy")
    page.locator(f"#front tr[data-number='{record.number}'] button").click()
    expect(page.locator("#panel .selected.a")).to_contain_text(record.key)
    expect(page.locator("#panel .curve .scatterlayer .point")).to_have_count(12)
    expect(page.locator("#home")).to_be_hidden()
    page.locator("#health-details summary").click()
    expect(page.locator("#volume-words")).to_contain_text("From 0.")
    served_page = open_page(f"{url}/run/mixed")
    with served_page.expect_download() as download:
        served_page.locator("#save").click()
    assert download.value.suggested_filename == "mixed.html"
    download.value.save_as(tmp_path / "downloaded.html")
    assert (tmp_path / "downloaded.html").stat().st_size == pytest.approx(
        (tmp_path / "saved.html").stat().st_size, rel=0.01
    )
    with pytest.raises(UserError, match="no run folder"):
        export_html(runs_dir, tmp_path / "none.html")


def test_links_of_a_run_wait_for_it(open_page, context, url):
    context.route("**/api/run/**", lambda _: None)  # never answered
    try:
        page = open_page(f"{url}/run/mixed")
        expect(page.locator("#home")).to_be_visible()
        for name in ("about", "save"):
            expect(page.locator(f"#{name}")).to_be_hidden()
    finally:
        context.unroute("**/api/run/**")


def test_page_fits_its_window(open_page, url):
    page = open_page(f"{url}/run/mixed#a=0")
    expect(page.locator("#panel .selected.a")).to_be_visible()
    for scheme, expected in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == expected
        line = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--front').trim()")
        page.wait_for_function(
            "line => document.querySelector('#chart .plot')?.data?.[0].line.color === line", arg=line
        )
        for width in (1280, 420):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")


def test_runs_are_listed_sorted_and_laid_over_each_other(open_page, tmp_path):
    for name, number in (("first", 40), ("second", 30), ("third", 0)):
        make_run(tmp_path / name, number)
    with served(tmp_path) as url:
        page = open_page(f"{url}/")
        rows = page.locator("#runs tbody tr")
        expect(rows).to_have_count(3)
        expect(rows.filter(has_text="first")).to_contain_text("38 of 60")
        together = "Share of the box that it spans together with "
        assert rows.filter(has_text="first").get_by_title(f"{together}second").inner_text().startswith("0.")
        expect(rows.filter(has_text="third").get_by_title("No other run here has the same")).to_have_text("–")
        page.locator("#runs button.sort", has_text="trainings").click()
        assert [text.split()[0] for text in page.locator("#runs tbody a").all_inner_texts()] == [
            "first",
            "second",
            "third",
        ]
        page.get_by_label("Compare first").check()
        page.get_by_label("Compare second").check()
        expect(page.locator("#overlay .scatterlayer .trace")).to_have_count(2)
        drawn = page.evaluate("document.querySelector('#overlay').data.map(({ name, x }) => [name, x.length])")
        assert sorted(drawn) == sorted([name, len(members_of(tmp_path / name))] for name in ("first", "second"))
        page.reload()
        expect(page.locator("#overlay .scatterlayer .trace")).to_have_count(2)
        page.locator("#filter").fill("SEC")
        expect(rows).to_have_count(1)
        page.locator("#runs a").click()
        expect(page.locator("#name")).to_have_text("second")
        page.goto(elsewhere())


def test_trial_and_configuration_have_their_pages(open_page, url, runs_dir):
    record = members_of(runs_dir / "mixed")[-1]
    page = open_page(f"{url}/run/mixed#a={record.number}")
    page.locator("#panel .selected.a a").click()
    expect(page.locator("#name")).to_have_text(f"mixed: trial {record.number}")
    expect(page.locator("#parts")).to_contain_text(f"trials/{record.number}.json")
    for name, value in record.params.items():
        expect(page.locator("tr", has_text=name).first).to_contain_text(str(value))
    expect(page.locator("#parts .scroll tbody tr")).to_have_count(len(record.curve))
    page.locator("#run").click()
    expect(page.locator("#panel .selected.a")).to_be_visible()  # the run's page, which has such a link too
    page.locator("#about").click()
    expect(page.locator("#parts pre").first).to_have_text((runs_dir / "mixed" / "resolved.yaml").read_text())
    expect(page.locator("tr", has_text="versions torch")).to_contain_text("2.15.0")


def test_needs_no_torch_ray_or_optuna(runs_dir):
    code = (
        "import sys; from nas.dashboard import create_app, export_html, serve; from nas.dashboard.view import RunView;"
        "create_app(sys.argv[1]); RunView(__import__('pathlib').Path(sys.argv[1]) / 'mixed').snapshot();"
        "print([m for m in ('torch', 'ray', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(runs_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wrong_folder_and_taken_port(tmp_path, runs_dir):
    with pytest.raises(UserError, match="no such folder"):
        create_app(tmp_path / "nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: .*in use"):
            serve(runs_dir, port)
