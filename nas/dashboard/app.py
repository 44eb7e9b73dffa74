"""create_app: the pages and their data over HTTP, read-only, for this machine.

Every address is looked up in a table: static files by name, runs by the listing of the folder, trials by number. No
path that comes from a client is ever opened.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.dashboard.view import RunView
from nas.run_files import find_runs, is_run

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
POLL_SECONDS, STATE_SECONDS, PING_SECONDS = 0.2, 5.0, 15.0
# Plotly writes style elements and draws its downloads from data URLs; nothing needs inline scripts or eval
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def create_app(path: str | Path) -> Starlette:
    """The dashboard of a run folder, or of a folder that holds runs.

    Event streams have no end of their own: they end when `app.state.stopping()`, which the server sets, becomes true.
    Raises UserError if there is no such folder.
    """
    shelf = Shelf(Path(path))
    files = StaticFiles()
    single = is_run(Path(path))

    async def home(request: Request) -> Response:
        if single:
            return RedirectResponse(request.url_for("run", name=next(iter(shelf.names()))))
        return files.response(request, "runs.html")

    async def run(request: Request) -> Response:
        shelf.view(request.path_params["name"])
        return files.response(request, "run.html")

    async def static(request: Request) -> Response:
        return files.response(request, request.path_params["name"])

    async def runs_data(request: Request) -> Response:
        return _json(await run_in_threadpool(shelf.summaries))

    async def run_data(request: Request) -> Response:
        view = shelf.view(request.path_params["name"])
        return _json(await run_in_threadpool(view.snapshot))

    async def trial_data(request: Request) -> Response:
        view = shelf.view(request.path_params["name"])
        try:
            return _json(await run_in_threadpool(view.trial, request.path_params["number"]))
        except KeyError:
            raise HTTPException(404, "no such trial") from None

    async def events(request: Request) -> Response:
        view = shelf.view(request.path_params["name"])
        since = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(_events(view, since, app.state), media_type="text/event-stream")

    routes = [
        Route("/", home),
        Route("/run/{name}", run, name="run"),
        Route("/static/{name}", static),
        Route("/api/runs", runs_data),
        Route("/api/run/{name}", run_data),
        Route("/api/run/{name}/trial/{number:int}", trial_data),
        Route("/api/run/{name}/events", events),
    ]
    guards = [Middleware(Guard), Middleware(GZipMiddleware, minimum_size=1000, compresslevel=4)]
    app = Starlette(routes=routes, middleware=guards)
    app.state.stopping = lambda: False
    return app


class Shelf:
    """The runs of a folder by name, found again whenever somebody asks."""

    def __init__(self, path: Path):
        self.path = path
        self.views: dict[str, RunView] = {}
        self.names()

    def names(self) -> list[str]:
        found = find_runs(self.path)
        self.views = {name: self.views.get(name) or RunView(folder) for name, folder in found.items()}
        return list(found)

    def view(self, name: str) -> RunView:
        if name not in self.views:
            self.names()
        if name not in self.views:
            raise HTTPException(404, "no such run")
        return self.views[name]

    def summaries(self) -> dict[str, Any]:
        names = self.names()
        return {"folder": str(self.path), "runs": [self.views[name].summary() for name in names]}


class StaticFiles:
    """The package's own files and Plotly's, by name."""

    def __init__(self) -> None:
        own = resources.files("nas.dashboard") / "static"
        self.sources = {item.name: item for item in own.iterdir() if Path(item.name).suffix in TYPES}
        self.sources["plotly.min.js"] = resources.files("plotly") / "package_data" / "plotly.min.js"
        self.loaded: dict[str, tuple[bytes, str]] = {}

    def response(self, request: Request, name: str) -> Response:
        if name not in self.sources:
            raise HTTPException(404, "no such file")
        if name not in self.loaded:
            body = self.sources[name].read_bytes()
            self.loaded[name] = gzip.compress(body, 6), f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        body, tag = self.loaded[name]
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
        else:
            body = gzip.decompress(body)
        return Response(body, headers=headers, media_type=TYPES[Path(name).suffix])


class Guard:
    """Refuses what no page of ours sends, and sets the headers that hold the pages in.

    A foreign `Host` means that a web page elsewhere had its name resolve to this machine to read the answers.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = HEADERS if b"cache-control" in names else HEADERS | {"cache-control": "no-store"}
                message["headers"] = [*message["headers"], *((n.encode(), v.encode()) for n, v in added.items())]
            await send(message)

        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if name not in LOCAL_NAMES:
            answer: ASGIApp = PlainTextResponse("this server answers to 127.0.0.1 and localhost only\n", 421)
        elif scope["method"] != "GET":
            answer = PlainTextResponse("read only\n", 405, headers={"allow": "GET"})
        else:
            answer = self.app
        await answer(scope, receive, send_guarded)


def _json(data: Any) -> Response:
    return JSONResponse(data)


async def _events(view: RunView, since: str, state: State) -> AsyncIterator[str]:
    """Server-sent events: what is new since a version, as it appears; the version is the event's id."""
    shown, front = None, None
    said = checked = time.monotonic()
    yield "retry: 1000\n\n"
    while not state.stopping():
        now = time.monotonic()
        version = await run_in_threadpool(view.version)
        news: dict[str, Any] | None = None
        if version != since:
            news = await run_in_threadpool(view.changes, since)
            since = news["version"]
        elif now - checked > STATE_SECONDS:
            checked = now
            summary = await run_in_threadpool(view.summary)
            news = {"version": since, "summary": summary} if summary["state"] != shown else None
        if news:
            shown = news.get("summary", {}).get("state", shown)
            if news.get("front") == front:
                news.pop("front", None)
            front = news.get("front", front)
            said = now
            yield f"id: {since}\ndata: {json.dumps(news, separators=(',', ':'))}\n\n"
        elif now - said > PING_SECONDS:
            said = now
            yield ": still here\n\n"
        # a folder that takes long to list is listed less often
        await asyncio.sleep(max(POLL_SECONDS, 4 * (time.monotonic() - now)))
