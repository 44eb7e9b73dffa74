"""The dashboard against pages elsewhere, against paths, and against what may stand in a run's files."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from starlette.requests import Request

from helpers.dashboard_pages import elsewhere, get, served
from helpers.run_samples import experiment, make_run, sample_record
from nas.dashboard import export_html
from nas.dashboard.static_files import StaticFiles, plotly_file
from nas.runs.record import write_record
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
SECRET = "kept-outside-of-every-run"
VECTORS = (
    "<script>window.owned=1</script>",
    '<img src=x onerror="window.owned=1">',
    "<svg onload=window.owned=1>",
    "<iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    '<a href="javascript:window.owned=1" autofocus onfocus=window.owned=1>x</a>',
    "<details open ontoggle=window.owned=1>",
    "<style>@import 'http://evil.example/x.css'</style>",
    '<meta http-equiv=refresh content="0;url=http://evil.example">',
    "<base href=http://evil.example>",
    "<form action=http://evil.example><button>x</button></form>",
)
FRAMES = ("{}", "\"'>{}", "</script>{}", "--><!--{}", "</title></style></textarea>{}")
PAYLOADS = [frame.format(vector) for vector, frame in itertools.product(VECTORS, FRAMES)]
# characters that no part of a file's name may hold
UNNAMEABLE = str.maketrans("/\0", "∕ ")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outside") / "results"
    (folder.parent / "secret.yaml").write_text(SECRET)
    (folder.parent / "secret.json").write_text(json.dumps({"number": 1, "secret": SECRET}))
    make_run(folder / "mixed", 5)
    (folder / "private").mkdir()
    (folder / "private" / "notes.txt").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def url(runs_dir) -> Iterator[str]:
    with served(runs_dir) as address:
        yield address


def hostile_run(folder: Path) -> Path:
    """A run with the payloads as its name and in every string of its files."""
    assert len(PAYLOADS) == 50
    run = make_run(folder / PAYLOADS[5].translate(UNNAMEABLE), 0)
    for number, payload in enumerate(PAYLOADS):
        made = sample_record(SPACE, number, "failed", error=f"{payload}: {payload}", key=payload, curve=[])
        write_record(run, dataclasses.replace(made, params={payload: payload}))
        (run / "trials" / f"9{payload.translate(UNNAMEABLE)}.json").write_text("{")
    best = sample_record(SPACE, 60, key=PAYLOADS[5], objectives={"top1": 0.999, "latency_ms": 0.01})
    write_record(run, dataclasses.replace(best, costs={"latency": {"device": PAYLOADS[0], "dtype": PAYLOADS[2]}}))
    write_record(run, sample_record(SPACE, 61, key=PAYLOADS[7], objectives={"top1": 0.9991, "latency_ms": 0.02}))
    texts = "\n".join(f"# {payload}" for payload in PAYLOADS)
    for name in ("experiment.yaml", "resolved.yaml"):
        with (run / name).open("a") as file:
            file.write(f"\n{texts}\n")
    environment = {"device": PAYLOADS[10], "git": PAYLOADS[15], "versions": {payload: payload for payload in PAYLOADS}}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "checkpoints" / "0").mkdir(parents=True)
    (run / "checkpoints" / "0" / "traceback.txt").write_text("\n".join(PAYLOADS))
    shutil.copytree(run, folder / "broken")
    (folder / "broken" / "resolved.yaml").write_text("\n".join(f"{json.dumps(payload)}: 1" for payload in PAYLOADS))
    return run


def test_nothing_in_a_run_is_more_than_text(open_page, tmp_path):
    run = hostile_run(tmp_path / "results")
    own_scripts = 0

    def check(page) -> None:
        assert page.evaluate("window.owned") is None
        for tag in ("img", "iframe", "base", "form", "[onerror]", "[onload]", "[onfocus]", "[ontoggle]", "[srcdoc]"):
            assert page.locator(tag).count() == 0, tag
        assert page.locator("[href^='javascript'], [http-equiv=refresh], details:not([id])").count() == 0
        assert page.locator("script:not([src])").count() == own_scripts

    with served(tmp_path / "results") as url:
        page = open_page(f"{url}/")
        link = page.locator("#runs a", has_text="onerror")
        expect(link).to_have_text(run.name)
        check(page)
        link.click()
        expect(page.locator("#name")).to_have_text(run.name)
        page.locator("#health-details summary").click()
        for payload in PAYLOADS[::7]:
            expect(page.locator("#failures")).to_contain_text(payload.split(":")[0].strip())
        page.locator("#front button.key").first.click()
        expect(page.locator("#panel .selected.a")).to_contain_text(PAYLOADS[5])
        page.locator("#front button.key").nth(1).click(modifiers=["Shift"])
        expect(page.locator("#panel .selected.b")).to_contain_text(PAYLOADS[7])
        expect(page.locator("#panel")).to_contain_text(PAYLOADS[0])
        check(page)
        own = urlsplit(page.url).path
        page.goto(f"{url}{own}/about")
        expect(page.locator("#parts")).to_contain_text(PAYLOADS[49])
        check(page)
        page.goto(f"{url}{own}/trial/0")
        expect(page.locator("#parts pre").first).to_contain_text(PAYLOADS[49])
        check(page)
        page.goto(f"{url}/run/broken")
        expect(page.locator("#problem")).to_contain_text("resolved.yaml:1:")
        check(page)
        page.goto(elsewhere())
    export_html(run, tmp_path / "saved.html", explained=False)
    saved = open_page(f"file://{tmp_path}/saved.html")
    expect(saved.locator("#name")).to_have_text(run.name)
    expect(saved.locator("#front button.key").first).to_be_visible()
    saved.locator("#chart[data-ready]").wait_for()
    own_scripts = 8  # data packed in five, Plotly packed and as it runs, the page's own module
    check(saved)


def test_front_without_scripts_is_text(context, tmp_path, browser):
    run = hostile_run(tmp_path / "results")
    plain = browser.new_context(java_script_enabled=False)
    with served(run) as url:
        page = plain.new_page()
        page.goto(f"{url}/")
        expect(page).to_have_url(re.compile("/front$"))
        expect(page.locator("table")).to_contain_text(PAYLOADS[5])
        assert page.locator("img, svg, iframe, details, script").count() == 0
    plain.close()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:80", "[::2]:80"])
def test_foreign_hosts_are_refused(url, host):
    status, body, _ = get(url, "/api/run/mixed", Host=host)
    assert status == 421 and b"mixed" not in body


def test_own_hosts_are_served(url):
    port = url.rsplit(":", 1)[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost"):
        assert get(url, "/api/runs", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_nothing_but_get(url, method):
    assert get(url, "/", method)[0] == 405


def hostile_paths(runs_dir: Path) -> list[str]:
    """500 addresses that try to leave the tables of names."""
    outside = [
        *("secret.yaml", "secret.json", "../secret.yaml", "/etc/passwd", "etc/passwd", "results/private/notes.txt"),
        *("private/notes.txt", str(runs_dir.parent / "secret.yaml"), "mixed/resolved.yaml", "proc/self/environ"),
    ]
    ways = [
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "..%252f",
        "%c0%ae%c0%ae/",
        "....//",
        "./../",
        "//",
        "%00/",
    ]
    forms = [
        *("/static/{}", "/run/{}", "/run/mixed/{}", "/run/mixed/trial/{}", "/api/run/{}", "/api/run/mixed/{}"),
        *("/api/run/mixed/trial/{}", "/run/{}/about", "/api/run/{}/trial/1", "/api/run/{}/about", "/{}"),
    ]
    found = [
        form.format(way * depth + target)
        for target, way, form, depth in itertools.product(outside, ways, forms, (1, 3))
    ]
    assert len(found) > 500
    return found[:: len(found) // 500][:500]


def test_no_path_of_a_client_is_opened(url, runs_dir):
    paths = hostile_paths(runs_dir)
    assert len(set(paths)) == 500
    for path in paths:
        raw = path.encode("latin-1", "replace").decode("latin-1").replace(" ", "%20")
        status, body, _ = get(url, raw)
        assert SECRET.encode() not in body and b"root:" not in body and b"PATH=" not in body, path
        assert status in (400, 404) or b"<title>Runs</title>" in body, (status, path)


@pytest.mark.parametrize(
    "path",
    [
        *("/static/__init__.py", "/static/app.py", "/static/run.html/", "/run/..", "/run/private", "/api/run/private"),
        *("/api/run/mixed/trial/99999999999999999999999", "/api/run/mixed/trial/-1", "/api/run/mixed%00"),
        *("/api/run/nothing/events", "/run/mixed/trial/x", "/api/run/mixed/trial/1.5", "/api/run/nothing/health"),
    ],
)
def test_what_is_not_listed_is_not_there(url, path):
    assert get(url, path)[0] == 404


def test_answers_carry_the_policy(url):
    for path in ("/", "/run/mixed", "/run/mixed/about", "/static/run.js", "/api/runs", "/nowhere"):
        _, _, headers = get(url, path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe-eval" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    script = get(url, "/static/plotly.min.js", **{"Accept-Encoding": "gzip"})
    assert script[1] == plotly_file().read_bytes() and script[2]["content-encoding"] == "identity"
    assert get(url, "/static/plotly.min.js", **{"If-None-Match": script[2]["etag"]})[0] == 304


def test_files_are_compressed_for_other_machines():
    headers = [(b"accept-encoding", b"gzip, br")]
    far = Request({"type": "http", "method": "GET", "client": ("192.0.2.7", 4000), "headers": headers})
    answer = StaticFiles().response(far, "plotly.min.js")
    body = bytes(answer.body)
    assert answer.headers["content-encoding"] == "gzip" and len(body) < 2e6
    assert gzip.decompress(body) == plotly_file().read_bytes()


def test_other_hosts_need_the_token(runs_dir):
    with served(runs_dir, "0.0.0.0") as whole:
        parts = urlsplit(whole)
        url = f"http://127.0.0.1:{parts.port}"
        token = parts.query.removeprefix("token=")
        assert len(token) >= 32
        for path in (
            "/",
            "/api/runs",
            "/run/mixed",
            "/static/run.js",
            "/?token=",
            "/?token=wrong",
            f"/?token={token}x",
        ):
            status, body, _ = get(url, path)
            assert status == 403 and b"mixed" not in body
        assert get(url, "/api/runs", Cookie="opnas=wrong")[0] == 403
        status, _, headers = get(url, f"/?token={token}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        status, body, _ = get(url, "/api/runs", Cookie=cookie.split(";")[0], Host="this-machine.example")
        assert status == 200 and b"mixed" in body
        assert get(url, "/api/runs", "POST", Cookie=cookie.split(";")[0])[0] == 405


def test_only_this_machine_is_listened_to(url):
    port = int(url.rsplit(":", 1)[1])
    others = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    for address in others | {"127.0.0.2"}:
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):
            pass
