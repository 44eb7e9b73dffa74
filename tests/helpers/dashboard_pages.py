"""A served dashboard and pages of a real browser, for the tests of the dashboard; fixtures are imported by name."""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, ViewportSize

from nas.dashboard.view import RunView

# the code beside the tests, wherever the server is started
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}
SERVE = "import sys; from nas.dashboard import serve; serve(sys.argv[1], int(sys.argv[2]), host=sys.argv[3])"
USED_PORTS: list[int] = []  # of servers that ended: the browser keeps what it compiled for an address


@contextmanager
def served(path: Path, host: str = "127.0.0.1", cwd: Path | None = None) -> Iterator[str]:
    """The dashboard of a folder in a process of its own, started as the command does.

    Gives its URL without the slash at the end, or the whole of it where it has a token.
    """
    port = str(USED_PORTS.pop() if USED_PORTS else 0)
    command = [sys.executable, "-c", SERVE, str(path), port, host]
    process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"dashboard of .*: (http://[\d.]+:(\d+))/(\?token=\S+)?\n", line)
        assert found, line
        port = found[2]
        yield found[0].split(": ", 1)[1].strip() if found[3] else found[1]
    finally:
        process.terminate()
        assert process.wait(20) is not None
        USED_PORTS.append(int(port))


@pytest.fixture(scope="session")
def context(browser: Browser) -> BrowserContext:
    return browser.new_context(permissions=["clipboard-read", "clipboard-write"], viewport=VIEWPORT)


class Elsewhere(BaseHTTPRequestHandler):
    """An empty page, for pages to go to before their server ends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *message: Any) -> None:
        pass


@functools.cache
def elsewhere() -> str:
    """Its address, of the dashboard's site: for another site the browser takes another process, see `kept_page`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


@pytest.fixture(scope="session")
def kept_page(context: BrowserContext) -> Page:
    """A page for all tests of all files: a new one is a new process, which compiles Plotly anew for seconds."""
    return context.new_page()


@pytest.fixture
def open_page(context: BrowserContext, kept_page: Page) -> Iterator[Callable[[str], Page]]:
    """Opens pages; any script error, console error or request to another origin fails the test."""
    pages: list[Page] = []
    troubles: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            troubles.append(f"console: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:")):
            troubles.append(f"request: {request.url}")

    def broke(error: Error) -> None:
        troubles.append(f"error: {error}")

    watchers: list[tuple[Any, Callable]] = [("pageerror", broke), ("console", said), ("request", asked)]

    def opened(address: str) -> Page:
        page = context.new_page() if pages else kept_page
        pages.append(page)
        for event, watcher in watchers:
            page.on(event, watcher)
        page.goto(address)
        return page

    yield opened
    for page in pages[1:]:
        page.close()
    if pages:
        kept_page.goto(elsewhere())
        kept_page.emulate_media(color_scheme="null")
        kept_page.set_viewport_size(VIEWPORT)
        for event, watcher in watchers:
            kept_page.remove_listener(event, watcher)
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


def whole_view(run_dir: Path) -> RunView:
    """The view of a run that has read all of it, also on a busy machine, where a look reads what it can in its time."""
    view = RunView(run_dir)
    assert view.read(60) == 0
    return view


def columns_of(body: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The head and the columns of `/api/run/NAME`, read as its docstring says."""
    length = int.from_bytes(body[:4], "little")
    head, at, found = json.loads(body[4 : 4 + length]), 4 + length, {}
    for name, kind, count in head["columns"]:
        found[name] = np.frombuffer(body, f"<{kind}", count, at)
        at += -(-found[name].nbytes // 8) * 8
    assert at == len(body)
    return head, found
