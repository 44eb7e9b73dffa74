"""StaticFiles: the package's own files and Plotly's, by name."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib import resources
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

PLOTLY = "plotly.min.js"
# the modules of the page of a run, each after those that it imports
MODULES = (
    *("dom.js", "format.js", "noise.js", "store.js", "source.js", "plotly.js", "axes.js", "cloud.js", "chart.js"),
    *("picture.js", "address.js", "header.js", "empty.js", "front.js", "blocks.js", "notes.js", "whatif.js"),
    *("panel.js", "architectures.js", "dimensions.js", "filter.js", "trials.js", "parallel.js"),
    *("decides.js", "predictions.js", "health.js", "later.js", "keys.js", "run.js"),
)
PAGE = "page.js"
"""All of them as one."""
IMPORT = re.compile(r'^import [^;]*?from "\./[a-z]+\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=async function|function|const|class)", re.MULTILINE)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def own_files() -> dict[str, Path]:
    """Name -> file of the pages, scripts and styles of this package."""
    folder = Path(str(resources.files("nas.dashboard"))) / "static"
    return {file.name: file for file in folder.iterdir() if file.suffix in TYPES}


def page_script() -> str:
    """PAGE: a browser asks once, and a page that was saved may not import files."""
    sources = own_files()
    texts = [sources[name].read_text(encoding="utf-8") for name in MODULES]
    script = "".join(EXPORT.sub("", IMPORT.sub("", text)) for text in texts)
    # a script must not end its element early: these sequences occur in strings and patterns only
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def plotly_file() -> Path:
    return Path(str(resources.files("plotly"))) / "package_data" / PLOTLY


class StaticFiles:
    """Answers with files of a fixed list, compressed for other machines, and with 304 where the browser has them."""

    def __init__(self) -> None:
        self.sources = own_files() | {PLOTLY: plotly_file()}
        self.loaded: dict[str, tuple[bytes, str]] = {}
        self.compressed: dict[str, bytes] = {}

    def response(self, request: Request, name: str) -> Response:
        if name not in self.sources and name != PAGE:
            raise HTTPException(404, "no such file")
        if name not in self.loaded:
            body = page_script().encode() if name == PAGE else self.sources[name].read_bytes()
            self.loaded[name] = body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        body, tag = self.loaded[name]
        headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        headers["content-encoding"] = "identity"  # else the middleware compresses it
        is_near = request.client is not None and request.client.host in ("127.0.0.1", "::1")
        if not is_near and "gzip" in request.headers.get("accept-encoding", ""):
            if name not in self.compressed:
                self.compressed[name] = gzip.compress(body, 6)
            body = self.compressed[name]
            headers["content-encoding"] = "gzip"
        return Response(body, headers=headers, media_type=TYPES[Path(name).suffix])
