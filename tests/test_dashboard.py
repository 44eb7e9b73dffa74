"""The dashboard as its users meet it: a real server on a free port, a real browser, records that appear on disk."""

from __future__ import annotations

import csv
import http.client
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect
from run_samples import add_record, experiment, make_run, sample_record

from nas.dashboard import create_app, export_html, serve
from nas.dashboard.view import RunView
from nas.errors import UserError
from nas.pareto import front
from nas.record import TrialRecord, read_records, write_record
from nas.space import SearchSpace

SPACE = SearchSpace(experiment().space)
OBJECTIVES = experiment().objectives
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
SERVE = "import sys; from nas.dashboard import serve; serve(sys.argv[1], 0)"


@contextmanager
def served(path: Path) -> Iterator[str]:
    """The dashboard of a folder in a process of its own, started as the command does; gives its URL without the end."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"dashboard of .*: (http://127\.0\.0\.1:\d+)/\n", line)
        assert found, line
        yield found[1]
    finally:
        process.terminate()
        assert process.wait(20) is not None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # a busy machine takes seconds to start Plotly
    with chromium() as started:
        yield started


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


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    return browser.new_context(
        permissions=["clipboard-read", "clipboard-write"], viewport={"width": 1280, "height": 900}
    )


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """Opens pages; any script error, console error or request to another origin fails the test."""
    pages: list[Page] = []
    troubles: list[str] = []

    def opened(address: str) -> Page:
        page = context.new_page()
        pages.append(page)
        origin = address.split("/run/")[0]

        def said(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                troubles.append(f"console: {message.text}")

        def asked(request: Request) -> None:
            if not request.url.startswith((origin, "data:", "blob:")):
                troubles.append(f"request: {request.url}")

        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("console", said)
        page.on("request", asked)
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert troubles == []


def get(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """One request with the path sent exactly as given."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def columns_of(body: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The head and the columns of `/api/run/NAME`, read as its docstring says."""
    length = int.from_bytes(body[:4], "little")
    head, at, found = json.loads(body[4 : 4 + length]), 4 + length, {}
    for name, kind, count in head["columns"]:
        found[name] = np.frombuffer(body, f"<{kind}", count, at)
        at += -(-found[name].nbytes // 8) * 8
    assert at == len(body)
    return head, found


def point_on_screen(page: Page, record: TrialRecord) -> tuple[float, float]:
    """Where a trial is drawn, from Plotly's own axes."""
    page.locator("#chart[data-ready]").wait_for()
    return page.evaluate(
        """([x, y]) => {
          const plot = document.querySelector("#chart .plot");
          const { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [record.objectives["latency_ms"], 100 * record.objectives["top1"]],
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
        expect(cells.nth(3)).to_have_text(f"{record.objectives['latency_ms']:.3f} ± {spread:.3f}")
    expect(page.locator("#progress-text")).to_contain_text("38 of 60 trainings")
    expect(page.locator("#volume")).to_contain_text(
        re.compile(r"hypervolume 0\.\d{4}, \d\.\d % of it from the last 10 trainings")
    )
    expect(page.locator("#bad")).to_have_text("2 stopped early · 2 failed · 2 rejected")
    page.locator("#bad").click()
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
        page.close()


def test_first_trial_fills_the_empty_page(open_page, tmp_path):
    run = make_run(tmp_path / "new", 0)
    with served(run) as url:
        page = open_page(f"{url}/")
        expect(page.locator("#empty")).to_contain_text("No trial has finished")
        assert page.url == f"{url}/run/new"
        add_record(run, SPACE, 0)
        expect(page.locator("#front tbody tr")).to_have_count(1)
        expect(page.locator("#empty")).to_be_hidden()
        page.close()


def test_axis_cap_and_csv(open_page, url, runs_dir, tmp_path):
    page = open_page(f"{url}/run/mixed")
    members = members_of(runs_dir / "mixed")
    expect(page.locator("#x-axis option")).to_have_text(["latency (ms)", "parameters (M)", "MACs (M)", "trial"])
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


def test_keyboard_goes_along_the_front(open_page, url, runs_dir):
    members = members_of(runs_dir / "mixed")
    page = open_page(f"{url}/run/mixed")
    expect(page.locator("#front tbody tr")).to_have_count(len(members))
    page.locator("#chart").focus()
    page.keyboard.press("Home")
    expect(page.locator("#panel .selected.a")).to_contain_text(members[0].key)
    page.keyboard.press("b")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel .selected.a")).to_contain_text(members[1].key)
    expect(page.locator("#panel .selected.b")).to_contain_text(members[0].key)
    expect(page.locator("#picked")).to_contain_text(f"on the front, 2 of {len(members)}")
    page.keyboard.press("x")
    expect(page.locator("#panel .selected.a")).to_contain_text(members[0].key)
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_contain_text("No network selected")


def test_hostile_names_stay_text(open_page, tmp_path):
    run = make_run(tmp_path / HOSTILE.replace("/", ""), 3)
    made = sample_record(SPACE, 3, "failed", error=f"{HOSTILE}: {HOSTILE}", key=HOSTILE, curve=[])
    write_record(run, made)
    good = sample_record(SPACE, 4, key=HOSTILE, objectives={"top1": 0.999, "latency_ms": 0.01})
    write_record(run, good)
    (run / "environment.json").write_text(json.dumps({"device": HOSTILE}))
    (run / "trials" / f"9{HOSTILE}.json").write_text("{")
    with served(tmp_path) as url:
        page = open_page(f"{url}/")
        expect(page.locator("#runs a")).to_have_text(run.name)
        page.locator("#runs a").click()
        expect(page.locator("#name")).to_have_text(run.name)
        page.locator("#front button").click()
        expect(page.locator("#panel .selected.a")).to_contain_text(HOSTILE)
        page.locator("#bad").click()
        expect(page.locator("#failure-table")).to_contain_text(HOSTILE)
        expect(page.locator("#circumstances")).to_contain_text(HOSTILE)
        expect(page.locator("#unreadable")).to_contain_text(HOSTILE)
        command = shlex.split(page.locator("#command").inner_text())
        assert command[3:5] == ["--key", HOSTILE]
        assert page.locator("img").count() == 0 and page.title() != "owned"
        export_html(run, tmp_path / "saved.html")
        saved = open_page(f"file://{tmp_path}/saved.html")
        expect(saved.locator("#name")).to_have_text(run.name)
        assert saved.locator("img").count() == 0 and saved.title() != "owned"
        page.close()


def test_failed_and_unreadable_runs_say_so(open_page, tmp_path):
    failed = make_run(tmp_path / "failed", 0)
    for number in range(3):
        add_record(failed, SPACE, number, state="failed", error="out of memory: 3 GB", objectives={}, curve=[])
    broken = make_run(tmp_path / "broken", 5)
    (broken / "resolved.yaml").write_text("space: 3\n")
    with served(tmp_path) as url:
        page = open_page(f"{url}/run/failed")
        expect(page.locator("#empty")).to_contain_text("Every training failed so far")
        expect(page.locator("#failure-table tbody tr")).to_have_text(re.compile("out of memory.*failed.*3"))
        page.goto(f"{url}/run/broken")
        expect(page.locator("#problem")).to_contain_text("resolved.yaml:1:")
        expect(page.locator("#front tbody tr").first).to_be_visible()
        page.close()


def test_saved_page_opens_from_disk(open_page, runs_dir, tmp_path):
    export_html(runs_dir / "mixed", tmp_path / "saved.html")
    record = members_of(runs_dir / "mixed")[-1]
    page = open_page(f"file://{tmp_path}/saved.html")
    expect(page.locator("#live")).to_contain_text("saved copy")
    page.locator(f"#front tr[data-number='{record.number}'] button").click()
    expect(page.locator("#panel .selected.a")).to_contain_text(record.key)
    expect(page.locator("#panel .curve .scatterlayer .point")).to_have_count(12)
    expect(page.locator("#home")).to_be_hidden()
    with pytest.raises(UserError, match="no run folder"):
        export_html(runs_dir, tmp_path / "none.html")


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


def test_runs_page_lists_the_folder(open_page, url):
    page = open_page(f"{url}/")
    rows = page.locator("#runs tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="mixed")).to_contain_text("38 of 60")
    page.locator("#runs a", has_text="mixed").click()
    expect(page.locator("#name")).to_have_text("mixed")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:80", "[::2]:80"])
def test_foreign_hosts_are_refused(url, host):
    status, body, _ = get(url, "/api/run/mixed", Host=host)
    assert status == 421 and b"mixed" not in body


def test_own_hosts_are_served(url):
    port = url.rsplit(":", 1)[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert get(url, "/api/runs", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_but_get(url, method):
    assert get(url, "/", method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/__init__.py",
        "/run/..",
        "/api/run/..%2f..",
        "/api/run/%2e%2e",
        "/api/run/mixed/../empty",
        "/api/run/mixed/trial/..%2f..%2fresolved",
        "/api/run/mixed/trial/99999999999999999999999",
        "/api/run/mixed/trial/-1",
        "/api/run/mixed%00",
        "/api/run/nothing/events",
        "//etc/passwd",
    ],
)
def test_no_path_of_a_client_is_opened(url, path):
    assert get(url, path)[0] == 404


def test_answers_carry_the_policy(url):
    for path in ("/", "/run/mixed", "/static/run.js", "/api/runs", "/nowhere"):
        _, _, headers = get(url, path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
    script = get(url, "/static/plotly.min.js", **{"Accept-Encoding": "gzip"})
    assert len(script[1]) < 2e6
    assert get(url, "/static/plotly.min.js", **{"If-None-Match": script[2]["etag"]})[0] == 304


def test_events_carry_only_what_is_new(tmp_path):
    run = make_run(tmp_path / "live", 30)
    view = RunView(run)
    head, columns = columns_of(view.snapshot())
    assert head["whole"] and sorted(columns["number"]) == list(range(30))
    records = {record.number: record for record in read_records(run)}
    for number, top1, latency in zip(columns["number"], columns["top1"], columns["latency_ms"], strict=True):
        known = records[int(number)].objectives
        assert latency == np.float32(known["latency_ms"]) and (
            top1 == np.float32(known.get("top1", np.nan)) or "top1" not in known
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
