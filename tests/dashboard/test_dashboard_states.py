"""The states of the page: empty, waiting, quiet, broken, old; its colours; and whether everybody can use it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from helpers.dashboard_pages import elsewhere, served
from helpers.mistakes_samples import write_mistakes
from helpers.run_samples import add_record, experiment, make_run, sample_record
from nas.base.locks import RunLock
from nas.dashboard import export_html
from nas.dashboard.static_files import own_files
from nas.runs.record import write_record
from nas.space.published_accuracies import published_accuracies
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OPEN_SCROLLERS = """document.querySelectorAll(".scroll, aside").forEach((box) => {
  Object.assign(box.style, { maxHeight: "none", position: "static" });
})"""
OPERATORS = ("conv", "involution", "odconv", "scconv", "gnconv", "own-0", "own-1", "own-2", "own-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    mixed = make_run(folder / "mixed", 60)
    make_run(folder / "other", 30)
    make_run(folder / "empty", 0)
    failed = make_run(folder / "failed", 0)
    for number in range(3):
        add_record(failed, SPACE, number, state="failed", error="out of memory: 3 GB", objectives={}, curve=[])
    members = json.loads((mixed / "trials" / "28.json").read_text())
    (mixed / "retrain" / members["key"]).mkdir(parents=True)
    (mixed / "retrain" / members["key"] / "config.json").write_text(
        json.dumps({"top1": 0.81, "epochs": 90, "num_classes": 1000})
    )
    write_mistakes(mixed / "retrain" / members["key"])
    return folder


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    with served(folder) as address:
        yield address


def violations(page: Page) -> list[str]:
    """What axe-core finds; scrolled boxes are opened, so that all contrasts can be seen."""
    page.evaluate(OPEN_SCROLLERS)
    page.evaluate(AXE)
    found = page.evaluate("(rules) => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES)
    # axe cannot judge the contrast of text on the lines of a chart, out of sight (the skip link, the end of a line
    # that is scrolled), or of one letter, such as a unit
    unseen = [
        (item["id"], node)
        for item in found["incomplete"]
        for node in item["nodes"]
        if item["id"] == "color-contrast"
        and not re.search("js-plotly-plot|skip|<b>[AB]</b>", f"{node['target']}{node['html']}")
        and not node["html"].startswith(("<text", "<tspan"))
        and not re.search("overlapped by|obscured by|too short to determine", node["any"][0]["message"])
    ]
    broken = [(item["id"], node) for item in found["violations"] for node in item["nodes"]]
    return [f"{rule}: {node['html'][:150]} {node.get('failureSummary', '')}" for rule, node in [*broken, *unseen]]


def test_new_records_appear_by_themselves(open_page, tmp_path):
    run = make_run(tmp_path / "live", 6)
    with served(run) as url:
        page = open_page(f"{url}/run/live")
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#progress-text")).to_contain_text("6 of 60")
        page.evaluate("window.stays = true")
        begin = time.monotonic()
        best = add_record(run, SPACE, 6, objectives={"top1": 0.999, "latency_ms": 0.01})
        expect(page.locator("#front tbody tr")).to_have_count(1)
        assert time.monotonic() - begin < 5
        expect(page.locator("#front tbody tr")).to_contain_text(best.key)
        expect(page.locator("#progress-text")).to_contain_text("7 of 60")
        (run / "trials" / "7.json").write_text('{"number": 7, "ke')
        expect(page.locator("#unreadable")).to_have_text("1 unreadable record left out: 7.json")
        (run / "trials" / "6.json").unlink()
        expect(page.locator("#progress-text")).to_contain_text("6 of 60")
        assert page.evaluate("window.stays")
        page.goto(elsewhere())


def test_first_trial_fills_the_empty_page(open_page, tmp_path):
    run = make_run(tmp_path / "new", 0)
    with served(run) as url:
        page = open_page(f"{url}/")
        expect(page.locator("#empty")).to_contain_text("No trial has finished")
        assert page.url == f"{url}/run/new"
        add_record(run, SPACE, 0)
        expect(page.locator("#front tbody tr")).to_have_count(1)
        expect(page.locator("#empty")).to_be_hidden()
        page.goto(elsewhere())


@pytest.mark.parametrize("schemes, width", [(("dark", "light"), 1280), (("light",), 420)], ids=["1280", "420"])
def test_axe_finds_nothing_on_the_page_of_a_run(open_page, url, schemes, width):
    """In both colour schemes, which each are that of a page from its start once, and on a narrow screen."""
    page = open_page(elsewhere())
    page.emulate_media(color_scheme=schemes[0])
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{url}/run/mixed#a=28&b=22")
    expect(page.locator("#panel .selected.b")).to_be_visible()
    for name in ("health", "effects", "parallel", "trials"):
        page.locator(f"#{name}-details summary").click()
        expect(page.locator(f"#{name}-details")).to_have_attribute("open", "")
    expect(page.locator("#effects tbody tr").first).to_be_attached()
    expect(page.locator("#trials tbody tr").first).to_be_attached()
    page.locator("#trials-low").fill("75")
    page.locator("#trials-low").blur()
    expect(page.locator("#parallel .brush:not([hidden])")).to_have_count(1)
    expect(page.locator("#changes tbody tr").first).to_be_attached(timeout=60_000)
    page.locator("#predictions-details summary").click()
    expect(page.locator("#predictions .scatterlayer").first).to_be_attached()
    expect(page.locator("#pace-chart .scatterlayer")).to_be_attached()
    page.locator("#chart[data-ready]").wait_for()
    page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []


@pytest.mark.parametrize(
    "path, there",
    [
        ("/#run=mixed&run=other", "#overlay .scatterlayer"),
        ("/run/mixed#full=1&x=num_params", "#stated tbody tr"),
        ("/run/mixed/trial/28", "#parts .scatterlayer"),
        ("/run/mixed/trial/28", "#parts .matrix"),
        ("/run/mixed/trial/13", "#parts .diagram"),
        ("/run/mixed/about", "#parts pre"),
        ("/run/empty", "#empty"),
        ("/run/failed", "#failure-table td"),
    ],
)
def test_axe_finds_nothing_on_other_pages_and_states(open_page, url, path, there):
    page = open_page(f"{url}{path}")
    expect(page.locator(there).first).to_be_attached()
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page) == []


def test_no_runs_and_a_run_that_waits(open_page, tmp_path):
    with served(tmp_path) as url:
        page = open_page(f"{url}/")
        expect(page.locator("#empty")).to_contain_text(f"No runs in {tmp_path} yet")
        expect(page.locator("#empty code")).to_have_text("nas search search_spaces/quickstart.yaml")
        run = make_run(tmp_path / "new", 0)
        (run / "environment.json").write_text(json.dumps({"time": time.time() - 100}))
        (run / "checkpoints" / "0").mkdir(parents=True)
        with RunLock(run / "driver.lock"):
            page.goto(f"{url}/run/new")
            expect(page.locator("#state")).to_have_text("waiting for the first trial")
            expect(page.locator("#empty")).to_contain_text(
                re.compile(r"The search began .*, 2 min ago\. Under way: trial 0\.")
            )
        page.goto(elsewhere())


def test_quiet_failed_broken_and_newer_runs_say_so(open_page, tmp_path):
    quiet = make_run(tmp_path / "quiet", 5)
    failed = make_run(tmp_path / "failed", 0)
    for number in range(3):
        add_record(failed, SPACE, number, state="failed", error="out of memory: 3 GB", objectives={}, curve=[])
    broken = make_run(tmp_path / "broken", 5)
    (broken / "resolved.yaml").write_text("space: 3\n")
    newer = make_run(tmp_path / "newer", 3)
    record = json.loads((newer / "trials" / "2.json").read_text())
    (newer / "trials" / "2.json").write_text(json.dumps(record | {"format": 2}))
    with served(tmp_path) as url, RunLock(quiet / "driver.lock"):
        page = open_page(f"{url}/run/quiet")
        expect(page.locator("#state")).to_have_text("running, but no news")
        expect(page.locator("#problem")).to_contain_text("Check with: nas status quiet")
        page.goto(f"{url}/run/failed")
        expect(page.locator("#empty")).to_contain_text("Every training failed so far")
        expect(page.locator("#failure-table tbody tr")).to_have_text(re.compile("out of memory.*3.*trial 0"))
        page.goto(f"{url}/run/broken")
        expect(page.locator("#problem")).to_contain_text("resolved.yaml:1:")
        expect(page.locator("#front tbody tr").first).to_be_visible()
        page.goto(f"{url}/run/newer")
        expect(page.locator("#problem")).to_contain_text("written by a newer version of opnas (records of format 2)")
        expect(page.locator("#progress-text")).to_contain_text("2 of 60")
        page.goto(elsewhere())


def test_few_trials_and_a_single_objective(open_page, tmp_path):
    few = make_run(tmp_path / "few", 2)
    single = make_run(tmp_path / "single", 12, experiment(objectives=[{"name": "top1"}]))
    three = [{"name": "top1"}, {"name": "latency_ms"}, {"name": "num_params"}]
    run = make_run(tmp_path / "three", 0, experiment(objectives=three))
    for number, values in enumerate(((0.8, 1.0, 9e6), (0.7, 2.0, 5e6), (0.9, 3.0, 9e6), (0.6, 4.0, 9e6))):
        found = dict(zip(("top1", "latency_ms", "num_params"), values, strict=True))
        add_record(run, SPACE, number, objectives=found)
    assert few and single
    with served(tmp_path) as url:
        page = open_page(f"{url}/run/few")
        page.locator("#chart[data-ready]").wait_for()
        assert page.evaluate("document.querySelector('#chart .plot').data[0].x.length") == 0
        expect(page.locator("#volume")).to_be_empty()
        page.goto(f"{url}/run/single")
        expect(page.locator("#chart-title")).to_have_text("Top-1 accuracy over the search")
        expect(page.locator("#legend")).to_contain_text("best of the search")
        expect(page.locator("#spread-note")).to_contain_text("no error bars")
        expect(page.locator("#bars-label")).to_be_hidden()
        page.goto(f"{url}/run/three")  # whose front has members that lie below others on any two axes
        page.locator("#chart[data-ready]").wait_for()
        drawn = "document.querySelector('#chart .plot').data.map(({ name, x }) => [name, x.length])"
        assert page.evaluate(drawn) == [["line", 0], ["front", 3]]
        expect(page.locator("#legend")).to_contain_text("Pareto front in top-1 accuracy, latency, parameters")
        page.goto(elsewhere())


def test_a_lost_server_leaves_the_page_usable(context, tmp_path):
    run = make_run(tmp_path / "mixed", 20)
    page = context.new_page()
    with served(run) as url:
        page.goto(f"{url}/run/mixed#a=0")
        expect(page.locator("#live")).to_have_text("live")
        page.locator("#chart[data-ready]").wait_for()
    expect(page.locator("#live")).to_contain_text(re.compile("not live, last update .*, trying again every 4 s"))
    page.locator("#x-axis").select_option("num_params")
    expect(page.locator("#chart-title")).to_have_text("Top-1 accuracy against parameters")
    page.close()


def test_names_of_published_networks_do_not_lie_on_one_another(open_page, url):
    page = open_page(url)
    points = [
        {"x": 10, "y": 10, "name": "one"},
        {"x": 12, "y": 14, "name": "two"},
        {"x": 10, "y": 200, "name": "three"},
    ]
    frame = "{ left: 0, width: 400, x: (value) => value, y: (value) => value }"
    call = f"(points) => import('/static/chart.js').then(({{ labels }}) => labels(points, {frame}))"
    assert page.evaluate(call, points) == [" one", "", " three"]
    axes = "{ x: { maximize: false }, y: { maximize: true }, xs: [2, 1, 1, 1], ys: [0.8, 0.5, 0.7, 0.6] }"
    line = page.evaluate(f"import('/static/chart.js').then(({{ frontLine }}) => frontLine({axes}, [0, 1, 2, 3]))")
    assert line == [{"x": 1, "y": 0.7}, {"x": 2, "y": 0.8}], "of equal costs the best alone"


def test_published_accuracies_have_the_axis_of_full_trainings(open_page, url):
    """Nothing is measured here that they could be compared with but a full training on as many classes."""
    page = open_page(f"{url}/run/other")
    expect(page.locator("#front tbody tr").first).to_be_attached()
    expect(page.locator("#full-label")).to_be_hidden()
    page.goto(f"{url}/run/mixed#x=num_params")
    page.locator("#full").check()
    stated = published_accuracies()["networks"]
    expect(page.locator("#stated tbody tr")).to_have_count(len(stated))
    best = max(stated, key=lambda name: stated[name]["top1"])
    expect(page.locator("#stated tbody tr").first.locator("td").first).to_have_text(best)
    expect(page.locator("#legend")).to_contain_text("published accuracy, its authors' training")
    expect(page.locator("#chart .ytitle")).to_have_text("top-1 accuracy of the full training (%)")
    circles = page.evaluate(
        """() => { const plot = document.querySelector("#chart .plot");
          const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
          const { x, y } = plot.data.find(({ name }) => name === "published");
          return x.map((value, i) => [value, y[i], box.left + xaxis._offset + xaxis.d2p(value),
                                      box.top + yaxis._offset + yaxis.d2p(y[i])]); }"""
    )
    expected = sorted((network["num_params"] / 1e6, 100 * network["top1"]) for network in stated.values())
    np.testing.assert_allclose(sorted((x, y) for x, y, *_ in circles), expected)
    at = max(circles, key=lambda circle: circle[0])
    page.mouse.move(at[2], at[3])
    expect(page.locator("#chart .tip")).to_contain_text("published, ImageNet-1k")
    expect(page.locator("#stated-note")).to_be_hidden()
    assert "full=1" in page.url
    page.locator("#x-axis").select_option("latency_ms")
    expect(page.locator("#stated-note")).to_contain_text(f"{len(stated)} of {len(stated)} published networks have no")


def test_outliers_do_not_ruin_the_axes(open_page, tmp_path):
    run = make_run(tmp_path / "far", 0)
    for number in range(60):
        write_record(run, dataclasses.replace(sample_record(SPACE, number), number=number))
    add_record(run, SPACE, 60, state="complete", objectives={"top1": 0.7, "latency_ms": 900.0}, error=None)
    export_html(run, tmp_path / "far.html", explained=False)
    page = open_page(f"file://{tmp_path}/far.html")
    page.locator("#chart[data-ready]").wait_for()
    expect(page.locator("#chart .edges")).to_contain_text("▸ 1 outside")
    assert page.evaluate("document.querySelector('#chart .plot')._fullLayout.xaxis.range[1]") < 100
    expect(page.locator("#live")).to_contain_text("saved copy")
    assert violations(page) == []


def palette(dark: bool) -> dict[str, str]:
    """The colours of the style sheet."""
    text = own_files()["style.css"].read_text()
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[int(dark)]))


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# full dichromacy in linear RGB: Machado, Oliveira and Fernandes, https://doi.org/10.1109/TVCG.2009.113, severity 1
SIGHTS = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def cam02_ucs(rgb: np.ndarray) -> np.ndarray:
    """CAM02-UCS coordinates J', a', b' of linear sRGB (average surround, D65, adapting luminance 64 / pi / 5 cd/m2).

    CIECAM02 as in CIE 159:2004; the uniform space is Luo, Cui and Li's, https://doi.org/10.1002/col.20227.
    """
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    cat = np.array([[0.7328, 0.4296, -0.1624], [-0.7036, 1.6975, 0.0061], [0.0030, 0.0136, 0.9834]])
    hpe = np.array([[0.38971, 0.68898, -0.07868], [-0.22981, 1.18340, 0.04641], [0.0, 0.0, 1.0]])
    white = np.array([95.047, 100.0, 108.883])
    luminance, background = 64 / np.pi / 5, 20.0
    k = 1 / (5 * luminance + 1)
    fl = 0.2 * k**4 * 5 * luminance + 0.1 * (1 - k**4) ** 2 * (5 * luminance) ** (1 / 3)
    n = background / white[1]
    nbb, z = 0.725 * n**-0.2, 1.48 + n**0.5
    degree = 1 - np.exp(-(luminance + 42) / 92) / 3.6
    gains = degree * white[1] / (cat @ white) + 1 - degree

    def responses(xyz: np.ndarray) -> np.ndarray:
        cone = hpe @ np.linalg.inv(cat) @ (gains * (cat @ xyz))
        power = (fl * np.abs(cone) / 100) ** 0.42
        return np.sign(cone) * 400 * power / (27.13 + power) + 0.1

    def achromatic(cone: np.ndarray) -> float:
        return float((cone @ [2, 1, 0.05] - 0.305) * nbb)

    cone = responses(to_xyz @ np.clip(rgb, 0, 1) * 100)
    a, b = cone @ [1, -12 / 11, 1 / 11], cone @ [1 / 9, 1 / 9, -2 / 9]
    hue = np.arctan2(b, a)
    lightness = 100 * (achromatic(cone) / achromatic(responses(white))) ** (0.69 * z)
    eccentric = (np.cos(hue + 2) + 3.8) / 4
    t = 50000 / 13 * nbb * eccentric * np.hypot(a, b) / (cone @ [1, 1, 1.05])
    colourfulness = t**0.9 * (lightness / 100) ** 0.5 * (1.64 - 0.29**n) ** 0.73 * fl**0.25
    uniform = np.log(1 + 0.0228 * colourfulness) / 0.0228
    return np.array([1.7 * lightness / (1 + 0.007 * lightness), uniform * np.cos(hue), uniform * np.sin(hue)])


@pytest.mark.parametrize("dark", [False, True])
def test_operators_are_told_apart_by_all_eyes(dark):
    colours = palette(False) | palette(dark)
    for name in (*OPERATORS, "front", "a", "b", "good", "cloud"):
        assert contrast(colours[name], colours["ground"]) >= 3, name
    for name in ("text", "quiet", "warning", "front"):
        assert contrast(colours[name], colours["ground"]) >= 4.5 and contrast(colours[name], colours["panel"]) >= 4.5, (
            name
        )
    for sight, matrix in SIGHTS.items():
        seen = {name: cam02_ucs(matrix @ linear(colours[name])) for name in OPERATORS}
        for one, other in itertools.combinations(OPERATORS, 2):
            assert np.linalg.norm(seen[one] - seen[other]) >= 15, (sight, one, other)


def test_the_measure_of_colours_is_right():
    """White is at lightness 100 without colour, black at 0; and the usual palette falls where it is known to."""
    assert cam02_ucs(np.ones(3)) == pytest.approx([100, 0, 0], abs=2)
    assert cam02_ucs(np.zeros(3)) == pytest.approx([0, 0, 0], abs=1e-6)
    usual = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"]
    seen = [cam02_ucs(SIGHTS["protan"] @ linear(colour)) for colour in usual]
    closest = min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2))
    assert closest == pytest.approx(1.6, abs=0.05)
