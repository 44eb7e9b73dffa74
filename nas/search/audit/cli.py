"""The commands that check what a run claims."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
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


@click.command()
@click.argument("run")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Absent: RUN.bundle.zip here.")
def bundle(run: str, output: Path | None):
    """Write a run to one file for others to check: records, experiment, environment; no images, weights, passwords."""
    from nas.runs.bundle.archive import bundle
    from nas.runs.folder import find_run

    folder = find_run(run)
    click.echo(bundle(folder, output or Path(f"{folder.resolve().name}.bundle.zip")))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--retrain", "count", type=click.IntRange(0), default=0, help="Train so many networks of the front too.")
@click.option("--run-code", is_flag=True, help="With --retrain: run the modules of its own that the run has.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(file: Path, count: int, run_code: bool, as_json: bool):
    """Check a bundle: make its report again from its records, and compare checksums, keys, front and hypervolume.

    The exit code is 1 where something does not hold, 2 where the file is damaged or no bundle.
    """
    from nas.config.evaluators import TRAINED
    from nas.runs.bundle.archive import opened
    from nas.runs.bundle.verify import differences
    from nas.runs.report import report
    from nas.runs.report_text import to_text

    with opened(file) as (folder, manifest):
        wrong, trained = differences(folder, manifest["claims"]), []
        if count and not wrong:
            from nas.search.audit.retrained import retrain  # which needs torch

            trained = retrain(folder, count, run_code, lambda text: click.echo(text, err=True))
            wrong += [
                f"{entry['key']}: {100 * entry[figure]:.2f} % here, {100 * entry['claimed']:.2f} % claimed"
                for entry in trained
                for figure in TRAINED
                if figure in entry and not entry["holds"]
            ]
        found = report(folder)
        if as_json:
            click.echo(
                json.dumps({"wrong": wrong, "retrained": trained, "files": len(manifest["files"]), "report": found})
            )
        else:
            click.echo(to_text(found))
    for problem in wrong:
        click.echo(f"nas: {file}: {problem}", err=True)
    if wrong:
        sys.exit(1)
    files = len(manifest["files"])
    click.echo(f"\n{files} files as bundled; keys, front, hypervolume and report follow from the records", err=True)


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(first: str, second: str, as_json: bool):
    """Say what tells two runs, or bundles, apart: experiment, environment, front, accuracies of common networks."""
    from nas.runs.bundle.archive import opened
    from nas.runs.bundle.diff import diff, to_text
    from nas.runs.folder import find_run

    with ExitStack() as held:
        folders = [
            held.enter_context(opened(Path(n)))[0] if Path(n).is_file() else find_run(n) for n in (first, second)
        ]
        found = diff(*folders)
    click.echo(json.dumps(found) if as_json else to_text(found))
