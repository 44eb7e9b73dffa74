"""The commands that check what a run claims."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run")
@click.option(
    "--replicates", type=click.IntRange(1), default=1, show_default=True, help="Further trainings of each network."
)
@click.option("--ray-address", metavar="ADDRESS", help="Train on this Ray cluster (host:port, or auto).")
def confirm(run: str, replicates: int, ray_address: str | None):
    """Train the front of a run again, and what noise alone may keep from it, with other seeds; print the report."""
    from nas.runs.folder import find_run
    from nas.runs.report import report
    from nas.runs.report_text import to_text
    from nas.search.audit.confirm import confirm

    folder = Path(run) if (Path(run) / "resolved.yaml").is_file() else find_run(run)
    confirm(folder, replicates, ray_address)
    click.echo(to_text(report(folder)))
