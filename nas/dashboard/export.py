"""export_html: the page of a run with its data, as one file that opens from disk."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import UserError
from nas.base.files import write_atomically
from nas.dashboard.page import PLACE, front_table
from nas.dashboard.static_files import own_files, page_script, plotly_file
from nas.runs.listing import is_run

if TYPE_CHECKING:
    from nas.dashboard.view import RunView

TRIALS_PER_CHUNK = 200


def export_html(run_dir: str | Path, file: str | Path, explained: bool = True) -> None:
    """Write the page of a run, all its trials and Plotly into one HTML file that asks for nothing else.

    `explained` includes what each operator does and which choices decide, which takes seconds and needs Optuna.
    Raises UserError if `run_dir` is no run or the file cannot be written.
    """
    if not is_run(Path(run_dir)):
        raise UserError(f"{run_dir}: a page is exported from one run; this is no run folder")
    from nas.dashboard.view import RunView

    view = RunView(Path(run_dir))
    while view.read(60.0):
        pass
    page = exported_page(view, explained)
    try:
        write_atomically(Path(file), page)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from None


def exported_page(view: RunView, explained: bool = True) -> str:
    """The HTML of `export_html`."""
    content = {"saved": time.time(), "health": view.health(), "trials": {}, "chunks": {}}
    content["explained"] = view.explained() if explained else None
    embedded = [_embedded("embedded", view.snapshot()), _embedded("embedded-findings", view.findings())]
    embedded.append(_embedded("embedded-architectures", view.architectures()))
    numbers = list(view.run.rows)
    for chunk, start in enumerate(range(0, len(numbers), TRIALS_PER_CHUNK)):
        part = {number: _trial(view, number) for number in numbers[start : start + TRIALS_PER_CHUNK]}
        content["chunks"].update(dict.fromkeys(part, chunk))
        embedded.append(_embedded(f"trials-{chunk}", json.dumps(part).encode()))
    embedded.append(_embedded("embedded-rest", json.dumps(content).encode()))
    plotly = plotly_file().read_text(encoding="utf-8")
    embedded.append(_embedded("plotly", plotly.encode()))
    module = page_script()
    page = own_files()["run.html"].read_text(encoding="utf-8").replace(PLACE, front_table(view.front()))
    head, body = page.split("<!-- files -->", 1)[0], page.split("<!-- end of files -->", 1)[1]
    return "".join(
        [
            head.replace("<title>opnas</title>", f"<title>{html.escape(view.run.name)}</title>"),
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_policy([module, plotly]))}">\n',
            f"<style>{own_files()['style.css'].read_text(encoding='utf-8')}</style>\n",
            body.replace("</body>", "".join([*embedded, f'<script type="module">{module}</script>\n</body>'])),
        ]
    )


def _trial(view: RunView, number: int) -> dict[str, Any]:
    """What the panel shows of a trial: no paths of this machine but in the command."""
    shown = view.trial(number)
    return {name: value for name, value in shown.items() if name not in ("files", "trace", "params", "timings", "note")}


def _embedded(name: str, content: bytes) -> str:
    packed = base64.b64encode(gzip.compress(content, 9)).decode()
    return f'<script type="application/gzip" id="{name}">{packed}</script>\n'


def _policy(scripts: list[str]) -> str:
    """Only the two scripts of the file, by their hashes."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    return f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; img-src data: blob:"
