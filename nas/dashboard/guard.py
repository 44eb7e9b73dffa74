"""Guard: middleware that refuses requests which the pages do not send, and sets security headers."""

from __future__ import annotations

import re
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "opnas"
WRITTEN = re.compile(r"/api/run/[^/]+/trial/\d{1,18}/note")
"""All that can be written. A page elsewhere has to ask before it may PUT, and cannot hide its origin: it is refused."""
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


class Guard:
    """Lets requests through that are for this machine's names and only read, or note something of a trial.

    A foreign `Host` means that a web page elsewhere had its name resolve to this machine to read the answers. With a
    token (the server listens for other machines) every request needs it: once as `?token=`, from then on as a cookie;
    other names are then allowed, since a page elsewhere does not have the cookie.
    """

    def __init__(self, app: ASGIApp, token: str | None = None):
        self.app = app
        self.token = token

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

        await (self._refusal(scope) or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to what may not pass."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if self.token is None and name not in LOCAL_NAMES:
            return PlainTextResponse("this server answers to 127.0.0.1 and localhost only\n", 421)
        writes = scope["method"] == "PUT" and WRITTEN.fullmatch(scope["path"])
        if scope["method"] != "GET" and not writes:
            return PlainTextResponse("read only\n", 405, headers={"allow": "GET"})
        if writes and headers.get(b"origin") not in (f"http://{host}", f"https://{host}"):
            return PlainTextResponse("notes are taken from this server's own pages only\n", 403)
        if self.token is None or self._matches(_cookie(headers.get(b"cookie", ""))):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if not self._matches(query.get("token", [""])[0]):
            return PlainTextResponse("open the address that the command printed: it ends in ?token=...\n", 403)
        # the token goes out of the address, and with it out of histories and copied links
        answer = RedirectResponse(scope["path"] or "/", 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def _cookie(header: str) -> str:
    try:
        cookies = SimpleCookie(header)
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""
