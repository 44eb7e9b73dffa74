"""The page of a run as HTML, and the front as a page of its own for browsers that run no scripts."""

from __future__ import annotations

import html
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nas.dashboard.static_files import PLOTLY, own_files
from nas.runs.listing import has_records
from nas.runs.metrics import METRICS

if TYPE_CHECKING:
    from nas.dashboard.view import RunView

PLACE = "<!-- front -->"
FILES = "<!-- files -->"
MOST_MEMBERS = 200
MOST_SECONDS = 10.0  # that the page without scripts waits for records


def run_page(name: str, folder: Path) -> str:
    """run.html with what the browser should fetch at once; one that runs no scripts is led on to `front_page`."""
    page = own_files()["run.html"].read_text(encoding="utf-8")
    address = html.escape(f"/run/{quote(name, safe='')}/front")
    led_on = f'\n<noscript><meta http-equiv="refresh" content="0; url={address}"></noscript>'
    link = f'<p><a href="{address}">The front as a table</a></p>'
    # only where a chart is drawn at once
    early = f'\n<link rel="preload" as="script" href="/static/{PLOTLY}">' if has_records(folder) else ""
    return page.replace(FILES, FILES + early + led_on).replace(PLACE, link)


def front_page(view: RunView) -> str:
    """The front as a page without scripts."""
    end = time.monotonic() + MOST_SECONDS
    while (unread := view.read()) and time.monotonic() < end:
        pass
    name = html.escape(view.run.name)
    left = f'<p class="warning">{unread} records are not read yet; reload the page for them.</p>' if unread else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: Pareto front</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/style.css">
</head>
<body>
<main class="plain"><h1>{name}</h1><h2>Pareto front</h2>
<p class="warning">The chart needs scripts. This is the front as a table; in text: <code>nas report RUN</code></p>{left}
{front_table(view.front())}</main>
</body>
</html>
"""


def front_table(front: list[dict[str, Any]]) -> str:
    """The front, as `RunView.front` has it, as an HTML table."""
    members = front[:MOST_MEMBERS]
    if not members:
        return "<p>No network is on the front yet.</p>"
    names = [name for name in METRICS if any(name in member["values"] for member in members)]
    head = ["trial", "key", *(METRICS[name].label for name in names), "operators, stage by stage"]
    rows = [
        [
            str(member["number"]),
            member["key"],
            *(METRICS[name].text(member["values"].get(name)) for name in names),
            ", ".join(filter(None, (" | ".join(" ".join(stage) for stage in member["operators"]), member["training"]))),
        ]
        for member in members
    ]
    return (
        f"<table><thead>{_line(head, 'th')}</thead><tbody>{''.join(_line(row, 'td') for row in rows)}</tbody></table>"
    )


def _line(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
