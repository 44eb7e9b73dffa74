"""serve: the dashboard on a port of this machine."""

from __future__ import annotations

import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import uvicorn

from nas.dashboard.app import create_app
from nas.errors import UserError

HOST = "127.0.0.1"


def serve(path: str | Path, port: int = 8080, open_browser: bool = False) -> None:
    """Serve the dashboard of a run, or of the runs in a folder, until interrupted; prints its URL in one line.

    Port 0 takes a free one. Raises UserError if there is no such folder or the port is taken.
    """
    app = create_app(path)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror or error}; --port 0 takes a free port") from None
        # the backlog must stand before the line is printed: whoever reads it may connect at once
        listener.listen(128)
        url = f"http://{HOST}:{listener.getsockname()[1]}/"
        print(f"dashboard of {path}: {url}", flush=True)
        if open_browser:
            webbrowser.open(url)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, ws="none")
        server = uvicorn.Server(settings)
        app.state.stopping = lambda: server.should_exit
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
