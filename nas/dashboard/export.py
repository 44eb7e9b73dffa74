"""export_html: the page of a run with its data, as one file that opens from disk."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import time
from importlib import resources
from pathlib import Path

from nas.dashboard.view import RunView
from nas.errors import UserError
from nas.record import write_atomically
from nas.run_files import is_run

# the modules of the page, each after those that it imports
MODULES = ("dom.js", "format.js", "source.js", "plotly.js", "chart.js", "front.js", "panel.js", "run.js")
IMPORT = re.compile(r'^import [^;]*?from "\./[a-z]+\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=async function|function|const|class)", re.MULTILINE)


def export_html(run_dir: str | Path, file: str | Path) -> None:
    """Write the page of a run, all its trials and Plotly into one HTML file that asks for nothing else.

    Raises UserError if `run_dir` is no run.
    """
    if not is_run(Path(run_dir)):
        raise UserError(f"{run_dir}: a page is exported from one run; this is no run folder")
    view = RunView(Path(run_dir))
    content = view.snapshot()
    trials = {number: view.trial(number) for number in content["rows"]["number"]}
    content |= {"saved": time.time(), "trials": trials}
    packed = base64.b64encode(gzip.compress(json.dumps(content).encode(), 9)).decode()
    plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    # Plotly is a classic script that is done before the module of the page starts
    scripts = [f"<script>{_closed(plotly)}</script>", f'<script type="module">{_closed(_module())}</script>']
    page = _static("run.html")
    head, body = page.split("<!-- files -->", 1)[0], page.split("<!-- end of files -->", 1)[1]
    title = html.escape(view.run.name)
    page = "".join(
        [
            head.replace("<title>opnas</title>", f"<title>{title}</title>"),
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_policy(scripts))}">\n',
            f"<style>{_static('style.css')}</style>\n",
            body.replace(
                "</body>",
                f'<script type="application/gzip" id="embedded">{packed}</script>\n{"".join(scripts)}\n</body>',
            ),
        ]
    )
    write_atomically(Path(file), page)


def _module() -> str:
    """The page's modules as one: a page from disk may not import files."""
    return "".join(EXPORT.sub("", IMPORT.sub("", _static(name))) for name in MODULES)


def _closed(script: str) -> str:
    """A script that cannot end its element early: these sequences occur in strings and patterns only."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: list[str]) -> str:
    """Only the two scripts of the file, by their hashes."""
    hashes = []
    for script in scripts:
        source = script[script.index(">") + 1 : script.rindex("</script>")]
        hashes.append(f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'")
    return f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; img-src data: blob:"


def _static(name: str) -> str:
    return (resources.files("nas.dashboard") / "static" / name).read_text(encoding="utf-8")
