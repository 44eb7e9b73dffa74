"""serve: the dashboard on a port of this machine."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn

from nas.base.errors import UserError
from nas.dashboard.app import create_app

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(path: str | Path, port: int = 8080, open_browser: bool = False, host: str = LOOPBACK[0]) -> None:
    """Serve the dashboard of a run, or of the runs in a folder, until interrupted; prints its URL in one line.

    Port 0 takes a free one. A `host` other than this machine's own names makes a token that the URL carries, and
    without which nothing is answered. Raises UserError if there is no such folder or the address cannot be had.
    """
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    app = create_app(path, token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            what = f"--port {port}" if host in LOOPBACK else f"--host {host} --port {port}"
            raise UserError(f"{what}: {error.strerror or error}; --port 0 takes a free port") from None
        # the backlog must stand before the line is printed: whoever reads it may connect at once
        listener.listen(128)
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
        print(f"dashboard of {path}: {url}", flush=True)
        if open_browser:
            webbrowser.open(url)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, ws="none")
        server = uvicorn.Server(settings)
        app.state.stopping = lambda: server.should_exit
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
