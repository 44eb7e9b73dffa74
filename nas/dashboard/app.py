"""create_app: the pages and their data over HTTP; notes of trials are all that is written.

Every address is looked up in a table: static files by name, runs by the listing of the folder, trials by number. No
path that comes from a client is ever opened.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from nas.dashboard.asked.what_if import MOST_BYTES as MOST_QUESTION
from nas.dashboard.events import events
from nas.dashboard.export import exported_page
from nas.dashboard.guard import Guard
from nas.dashboard.notes import MOST_BYTES
from nas.dashboard.page import front_page, run_page
from nas.dashboard.shelf import Shelf
from nas.dashboard.static_files import StaticFiles

if TYPE_CHECKING:
    from nas.dashboard.view import RunView

# compressing takes longer than sending to this machine; pages and Plotly are compressed once
SMALLEST_COMPRESSED, MOST_COMPRESSED = 1000, 1e6
HEAD_START = 0.05  # seconds: the first page, which needs no record, goes out before the reading begins


def create_app(path: str | Path, token: str | None = None) -> Starlette:
    """The dashboard of a run folder, or of a folder that holds runs; with a `token` for other machines too.

    Event streams have no end of their own: they end when `app.state.stopping()`, which the server sets, becomes true.
    Raises UserError if there is no such folder.
    """
    shelf = Shelf(Path(path))
    files = StaticFiles()

    async def find(request: Request) -> RunView:
        return await run_in_threadpool(shelf.view, request.path_params["name"])

    async def home(request: Request) -> Response:
        if shelf.single:
            return RedirectResponse(request.url_for("run", name=next(iter(shelf.names()))).path)
        return files.response(request, "runs.html")

    async def run(request: Request) -> Response:
        name = request.path_params["name"]
        return HTMLResponse(await run_in_threadpool(run_page, name, shelf.folder(name)))

    async def front(request: Request) -> Response:
        view = await find(request)
        return HTMLResponse(await run_in_threadpool(front_page, view))

    def page(file: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            shelf.folder(request.path_params["name"])
            return files.response(request, file)

        return answer

    async def static(request: Request) -> Response:
        return files.response(request, request.path_params["name"])

    async def saved(request: Request) -> Response:
        view = await find(request)
        name = quote(f"{view.run.name}.html")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}", "content-encoding": "identity"}
        return HTMLResponse(await run_in_threadpool(exported_page, view), headers=headers)

    async def runs_data(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(shelf.summaries))

    async def run_data(request: Request) -> Response:
        view = await find(request)
        return _bytes(await run_in_threadpool(view.snapshot, request.query_params.get("since", "")))

    async def trial_data(request: Request) -> Response:
        view = await find(request)
        try:
            return JSONResponse(await run_in_threadpool(view.trial, request.path_params["number"]))
        except (KeyError, OSError):
            raise HTTPException(404, "no such trial") from None

    async def mistakes_data(request: Request) -> Response:
        view = await find(request)
        try:
            return JSONResponse(await run_in_threadpool(view.mistakes, request.path_params["number"]))
        except KeyError:
            raise HTTPException(404, "no such trial") from None

    async def form_data(request: Request) -> Response:
        view = await find(request)
        try:
            return JSONResponse(await run_in_threadpool(view.form, request.path_params["number"]))
        except (KeyError, OSError):
            raise HTTPException(404, "no such trial") from None

    async def what_if_data(request: Request) -> Response:
        view = await find(request)
        try:
            params = json.loads(request.query_params.get("params", "")[:MOST_QUESTION])
        except (ValueError, RecursionError):
            params = None
        if not isinstance(params, dict):
            raise HTTPException(400, "params: a JSON object is expected")
        return JSONResponse(await run_in_threadpool(view.what_if, params, lambda: app.state.stopping()))

    async def note_data(request: Request) -> Response:
        view = await find(request)
        if int(request.headers.get("content-length", MOST_BYTES + 1)) > MOST_BYTES:
            raise HTTPException(413, "the note is too long")
        try:
            await run_in_threadpool(view.note, request.path_params["number"], await request.body())
        except ClientDisconnect:  # before all of it had come: nobody reads an answer
            return Response(status_code=400)
        except KeyError:
            raise HTTPException(404, "no such trial") from None
        except ValueError as problem:
            raise HTTPException(400, str(problem)) from None
        except OSError as problem:
            raise HTTPException(403, f"notes.json: {problem.strerror}") from None
        return Response(status_code=204)

    async def health_data(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool((await find(request)).health))

    async def findings_data(request: Request) -> Response:
        return _bytes(await run_in_threadpool((await find(request)).findings))

    async def architectures_data(request: Request) -> Response:
        return _bytes(await run_in_threadpool((await find(request)).architectures))

    async def explained_data(request: Request) -> Response:
        view = await find(request)
        return JSONResponse(await run_in_threadpool(view.explained, lambda: app.state.stopping()))

    async def about_data(request: Request) -> Response:
        view = await find(request)
        from nas.dashboard.about import about

        return JSONResponse(await run_in_threadpool(about, view.run))

    async def events_data(request: Request) -> Response:
        view = await find(request)
        since = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return StreamingResponse(events(view, since, app.state), media_type="text/event-stream")

    routes = [
        Route("/", home),
        Route("/run/{name}", run, name="run"),
        Route("/run/{name}/front", front),
        Route("/run/{name}/trial/{number:int}", page("trial.html")),
        Route("/run/{name}/saved.html", saved),
        Route("/run/{name}/about", page("about.html")),
        Route("/static/{name}", static),
        Route("/api/runs", runs_data),
        Route("/api/run/{name}", run_data),
        Route("/api/run/{name}/trial/{number:int}", trial_data),
        Route("/api/run/{name}/trial/{number:int}/note", note_data, methods=["PUT"]),
        Route("/api/run/{name}/trial/{number:int}/mistakes", mistakes_data),
        Route("/api/run/{name}/trial/{number:int}/what-if", form_data),
        Route("/api/run/{name}/what-if", what_if_data),
        Route("/api/run/{name}/health", health_data),
        Route("/api/run/{name}/findings", findings_data),
        Route("/api/run/{name}/architectures", architectures_data),
        Route("/api/run/{name}/explained", explained_data),
        Route("/api/run/{name}/about", about_data),
        Route("/api/run/{name}/events", events_data),
    ]
    guards = [
        Middleware(Guard, token=token),
        Middleware(GZipMiddleware, minimum_size=SMALLEST_COMPRESSED, compresslevel=4),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        threading.Thread(target=_read_ahead, args=(shelf, app.state), daemon=True).start()
        yield

    app = Starlette(routes=routes, middleware=guards, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.stopping = lambda: False
    return app


def _bytes(body: bytes) -> Response:
    headers = {"content-encoding": "identity"} if len(body) > MOST_COMPRESSED else {}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _read_ahead(shelf: Shelf, state: Any) -> None:
    """Read the records before anybody asks; pages that come meanwhile get what is there, and the rest as it is read."""
    time.sleep(HEAD_START)
    for view in shelf.views():
        while view.read() and not state.stopping():
            time.sleep(0.001)  # lets a waiting request have the run
