"""The `nas` command: parsing, one call per verb, one message for what the user got wrong.

Exit codes: 0 done, 1 ran and failed, 2 wrong usage or input, 130 interrupted (a search goes on with --resume).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from nas.errors import UserError

OVERRIDES = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override an entry of the file.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="opnas")
def cli() -> None:
    """Search for networks whose operators differ from stage to stage, on measured cost.

    nas search FILE.yaml -> nas dashboard RUN -> nas retrain RUN --key KEY --data DIR
    """


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the run; without it, the name of the file.")
@OVERRIDES
@click.option("--dry-run", is_flag=True, help="Show what would be searched, and stop.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name.")
@click.option("--ray-address", metavar="ADDRESS", help="Run on this Ray cluster (host:port, or auto).")
def search(
    file: Path, name: str | None, overrides: tuple[str, ...], dry_run: bool, resume: bool, ray_address: str | None
):
    """Search the space of an experiment file."""
    from nas.experiment import load_experiment
    from nas.run_folder import plan_run, write_run

    source = _shipped(file)
    config, space = load_experiment(source, overrides)
    run_dir = plan_run(name or file.stem, config, resume)
    if dry_run:
        click.echo(_plan(config, space, run_dir))
        return
    from nas.search import check_machine, run_search

    check_machine(config, space, ray_address is not None)
    write_run(run_dir, source, config)
    records = run_search(config, space, run_dir, ray_address)
    from nas.report import report as make_report
    from nas.report import to_text

    click.echo(to_text(make_report(run_dir)))
    click.echo(f"\nnas dashboard {run_dir.name}", err=True)
    if not any(record.state == "complete" for record in records):
        sys.exit(1)


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def status(run: str, as_json: bool):
    """Say how far a search is, and whether it is running."""
    from nas.run_status import run_status, to_text

    state = run_status(_run(run))
    click.echo(json.dumps(state) if as_json else to_text(state))


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the front to a PNG file.")
def report(run: str, as_json: bool, plot: Path | None):
    """Print the Pareto front, the hypervolume and the failures of a run."""
    from nas import report as reports

    result = reports.report(_run(run))
    click.echo(json.dumps(result) if as_json else reports.to_text(result))
    if plot:
        reports.plot(_run(run), plot)
        click.echo(f"drawn to {plot}", err=True)


@cli.command()
@click.argument("run", default="results")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one needs the token that is printed.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@click.option("--export", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to one HTML file.")
def dashboard(run: str, port: int, host: str, open_browser: bool, export: Path | None):
    """Serve the page of a run, or of all runs in a folder, on this machine."""
    from nas import dashboard as pages

    folder = Path(run) if Path(run).is_dir() and not (Path(run) / "resolved.yaml").exists() else _run(run)
    if export:
        pages.export_html(folder, export)
        click.echo(f"written to {export}", err=True)
        return
    pages.serve(folder, port, open_browser, host)


@cli.command()
@click.argument("run", required=False)
@click.option("--key", help="Key of the architecture, or its first digits.")
@click.option("--genotype", type=click.Path(path_type=Path), help="Train the network of a genotype file instead.")
@click.option("--published", metavar="NAME", help="Train a published network instead.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with train/ and val/: class folders or shards.")
@click.option("--recipe", metavar="NAME", help="A published recipe instead of the file's retrain section.")
@OVERRIDES
@click.option("--devices", type=click.IntRange(1), help="GPUs of this host (absent: all), or CPU processes.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def retrain(
    run: str | None,
    key: str | None,
    genotype: Path | None,
    published: str | None,
    data: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    devices: int | None,
    resume: bool,
):
    """Train an architecture at length on images: one that a run found, a genotype file, or a published one."""
    from nas.published_genotypes import named_genotype
    from nas.run_folder import RESULTS

    if sum(given is not None for given in (key, genotype, published)) != 1:
        raise click.UsageError("give one of --key, --genotype and --published")
    if run is None and key is not None:
        raise click.UsageError("--key needs the RUN that found the architecture")
    network = None if key is not None else named_genotype(published or str(genotype))
    run_dir = RESULTS / "retrained" if run is None else _run(run)
    from nas import retrain as retraining

    try:
        summary = retraining.run_retrain(
            run_dir,
            key or "",
            data,
            overrides,
            resume,
            recipe=recipe,
            num_processes=devices or retraining.num_devices(),
            genotype=network,
        )
    except retraining.NonFiniteLoss as end:
        click.echo(f"nas: the training diverged: {end}; a smaller retrain.learning_rate may hold", err=True)
        sys.exit(1)
    except retraining.RetrainFailed as end:
        click.echo(f"nas: {end}", err=True)
        sys.exit(1)
    except retraining.Stopped as end:
        click.echo(f"nas: {end}; everything is saved, go on with --resume", err=True)
        sys.exit(130)
    if summary:
        click.echo(json.dumps(summary))


@cli.command()
@click.argument("run")
@click.option("--key", required=True, help="Key of the retrained architecture, or its first digits.")
@click.option("--format", "form", required=True, help="torch: a torch.export program that needs no opnas.")
def export(run: str, key: str, form: str):
    """Write a retrained architecture as a file for others to use."""
    from nas.export import run_export

    click.echo(run_export(_run(run), key, form))


@cli.command()
@click.argument("network", metavar="GENOTYPE|NAME")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--resolution", type=click.IntRange(4), default=224, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def profile(network: str, device: str, batch_size: int, resolution: int, dtype: str, as_json: bool):
    """Measure a published network or a genotype file: parameters, MACs, latency, memory, block by block."""
    from nas.profile import profile_network, to_text

    result = profile_network(network, device, batch_size, resolution, dtype)
    click.echo(json.dumps(result) if as_json else to_text(result))


@cli.command()
def schema():
    """Print the JSON Schema of experiment files, for editors."""
    from nas.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """The entry point: user mistakes become one message and exit code 2."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as mistake:
        mistake.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing finished is lost, go on with --resume", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left, as `head` does
        sys.exit(0)
    except UserError as mistake:
        click.echo(f"nas: {mistake}", err=True)
        sys.exit(2)


def _run(run: str) -> Path:
    from nas.run_folder import find_run

    return find_run(run)


def _shipped(file: Path) -> Path:
    """An experiment file by its path, or one that ships with the package by its name."""
    if not file.exists() and file.parent == Path("search_spaces"):
        from importlib import resources

        shipped = Path(str(resources.files("search_spaces") / file.name))
        if shipped.is_file():
            return shipped
    return file


def _plan(config, space, run_dir: Path) -> str:
    choices = space.choices()
    costs = [objective.name for objective in config.objectives]
    lines = [
        f"run         {run_dir}",
        f"space       {len(choices)} parameters, {space.num_points():,} points, "
        f"operators {', '.join(config.space.operators)}",
        f"objectives  {', '.join(costs)}",
        f"constraints {', '.join(config.constraints) or 'none'}",
        f"search      {config.search.num_trials} trainings by {config.search.sampler}, seed {config.search.seed}",
        f"proxy       {config.proxy.dataset}, {config.proxy.epochs} epochs at {config.proxy.resolution} pixels",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
