"""Server-sent events of a run: what is new since a version, as it appears; the version is the event's id."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State

if TYPE_CHECKING:
    from nas.dashboard.view import RunView

POLL_SECONDS, STATE_SECONDS, PING_SECONDS = 0.2, 5.0, 15.0


async def events(view: RunView, since: str, state: State) -> AsyncIterator[str]:
    """Ends when `state.stopping()` becomes true. A client that comes again says which event it saw last."""
    shown, front = None, None
    told: set[int] = set()
    said = checked = time.monotonic()
    yield "retry: 1000\n\n"
    while not state.stopping():
        begin = time.monotonic()
        version = await run_in_threadpool(view.version)
        news: dict[str, Any] | None = None
        if version != since:
            news = await run_in_threadpool(view.changes, since, told)
        elif begin - checked > STATE_SECONDS:
            checked = begin
            summary = await run_in_threadpool(view.summary)
            news = {"version": since, "summary": summary} if summary["state"] != shown else None
        if news:
            since = news["version"]
            shown = news.get("summary", {}).get("state", shown)
            if news.get("front") == front:
                news.pop("front", None)
            front = news.get("front", front)
            said = begin
            yield f"id: {since}\ndata: {json.dumps(news, separators=(',', ':'))}\n\n"
            if news.get("fetch") or news.get("reset"):
                return  # the page asks for all and comes again with that version
        elif begin - said > PING_SECONDS:
            said = begin
            yield ": still here\n\n"
        # a folder that takes long to list is listed less often
        await asyncio.sleep(max(POLL_SECONDS, 2 * (time.monotonic() - begin)))
