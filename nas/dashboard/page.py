"""The page of a run as HTML, with the front in it as text for browsers that run no scripts."""

from __future__ import annotations

import html
from typing import Any

from nas.dashboard.static_files import PLOTLY, own_files
from nas.dashboard.view import RunView
from nas.metrics import METRICS

PLACE = "<!-- front -->"
FILES = "<!-- files -->"
MOST_MEMBERS = 200


def run_page(view: RunView) -> str:
    """run.html with the front's table in its noscript part, and what the browser should fetch at once."""
    page = own_files()["run.html"].read_text(encoding="utf-8")
    front = view.front()
    return page.replace(FILES, FILES + early_files(has_chart=bool(front))).replace(PLACE, front_table(front))


def early_files(has_chart: bool) -> str:
    """Links to what the page's script would ask for one after the other; Plotly only where it is drawn with at once."""
    files = own_files()
    modules = sorted(name for name in files if name.endswith(".js") and f"{name[:-3]}.html" not in files)
    links = [f'<link rel="modulepreload" href="/static/{name}">' for name in modules]
    if has_chart:
        links.append(f'<link rel="preload" as="script" href="/static/{PLOTLY}">')
    return "\n".join(["", *links])


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
            " | ".join(" ".join(stage) for stage in member["operators"]),
        ]
        for member in members
    ]
    return (
        f"<table><thead>{_line(head, 'th')}</thead><tbody>{''.join(_line(row, 'td') for row in rows)}</tbody></table>"
    )


def _line(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
