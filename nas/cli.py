"""The `nas` command: parsing, one call per verb, one message for what the user got wrong.

Exit codes: 0 done, 1 ran and failed, 2 wrong usage or input, 130 interrupted (a search goes on with --resume), 143 and
129 the same by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import click

from nas.base.errors import UserError, of_place
from nas.base.signals import Stopped, stoppable
from nas.bench.cli import bench

OVERRIDES = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override an entry of the file.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="opnas")
def cli() -> None:
    """Search for networks whose operators differ from stage to stage, on measured cost.

    nas search FILE.yaml -> nas dashboard RUN -> nas retrain RUN --key KEY --data DIR
    """


@cli.command()
@click.argument("file", metavar="FILE|RUN", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the run; without it, the name of the file.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the runs; without it, results.")
@OVERRIDES
@click.option("--dry-run", is_flag=True, help="Show what would be searched, and stop.")
@click.option("--resume", is_flag=True, help="Go on with the run of that name, or with RUN, a run folder.")
@click.option("--retry-failed", is_flag=True, help="With --resume: run the trials that failed once more.")
@click.option("--ray-address", metavar="ADDRESS", help="Run on this Ray cluster (host:port, or auto).")
@click.option("--ship", is_flag=True, help="Send this package to the cluster, whose hosts need not have it.")
def search(
    file: Path,
    name: str | None,
    results: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    retry_failed: bool,
    ray_address: str | None,
    ship: bool,
):
    """Search the space of an experiment file, or go on with the run in a folder."""
    from nas.config.reading import load_experiment
    from nas.runs.folder import RESULTS, given_storage, plan_resume, plan_run
    from nas.space.search_space import notes

    if file.is_dir() and not resume:
        raise click.UsageError(f"{file} is a folder; nas search --resume {file} goes on with the run in it")
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume: it is for the trials of a run that is there")
    if ship and not ray_address:
        raise click.UsageError("--ship goes with --ray-address: the package is sent to a cluster")
    if resume and (file.is_dir() or (not (source := _shipped(file)).exists() and file.suffix not in (".yaml", ".yml"))):
        if name or results:
            raise click.UsageError("--resume RUN goes with neither --name nor --results: the folder says which run")
        folder = _run(str(file))
        source = folder / "resolved.yaml"
        stored = given_storage(folder)
        given = [f"search.storage={json.dumps(stored)}"] if stored else []
        config, space = load_experiment(source, [*given, *overrides])
        run_dir = plan_resume(folder, config)
    else:
        source = _shipped(file)
        config, space = load_experiment(source, overrides)
        run_dir = plan_run(name or file.stem, config, resume, results or RESULTS)
    for note in notes(config.space):
        click.echo(f"note: {note}", err=True)
    from nas.search.run import check_machine, run_search

    check_machine(config, space, ray_address is not None)
    if dry_run:
        click.echo(_plan(config, space, run_dir))
        if not (config.resources.gpus_per_trial and ray_address):  # this machine need not have the cluster's GPUs
            from nas.search import forecast

            click.echo(forecast.to_text(forecast.forecast(config, space), config))
        return
    with stoppable():
        records = run_search(config, space, run_dir, source, resume, ray_address, ship=ship, retry_failed=retry_failed)
    from nas.runs.report import report as make_report
    from nas.runs.report_text import to_text

    click.echo(to_text(make_report(run_dir)))
    known = run_dir == RESULTS / run_dir.name
    click.echo(f"\nnas dashboard {run_dir.name if known else shlex.quote(str(run_dir))}", err=True)
    if not any(record.state == "complete" for record in records):
        sys.exit(1)


@cli.command()
@click.argument("run", default="results")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; of several runs, a list.")
def status(run: str, as_json: bool):
    """Say how far a search is, and whether it is running; without RUN, or of a folder of runs, of each in a line."""
    from nas.runs.listing import find_runs
    from nas.runs.status import run_status, to_line, to_text

    folder = Path(run)
    if run == "results" and not folder.exists():
        raise UserError("there is no folder results/ here; nas status takes the path of a run, or of a folder of runs")
    if folder.is_dir() and not (folder / "resolved.yaml").exists():
        states = [run_status(path) for path in find_runs(folder).values()]
        click.echo(json.dumps(states) if as_json else "\n".join(map(to_line, states)) or f"{folder}: no runs yet")
        return
    state = run_status(_run(run))
    click.echo(json.dumps(state) if as_json else to_text(state))


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the front to a PNG file.")
def report(run: str, as_json: bool, plot: Path | None):
    """Print the Pareto front, the hypervolume and the failures of a run."""
    from nas.runs.report import report as make_report
    from nas.runs.report_picture import plot as draw
    from nas.runs.report_text import to_text

    result = make_report(_run(run))
    click.echo(json.dumps(result) if as_json else to_text(result))
    if plot:
        draw(_run(run), plot)
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
@click.option("--front", type=click.IntRange(1), help="Train that many diverse members of the front and two controls.")
@click.option("--genotype", type=click.Path(path_type=Path), help="Train the network of a genotype file instead.")
@click.option("--published", metavar="NAME", help="Train a published network instead.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with train/ and val/, class folders or shards, or hf:NAME."
)
@click.option("--recipe", metavar="NAME", help="A published recipe instead of the file's retrain section.")
@OVERRIDES
@click.option("--devices", type=click.IntRange(1), help="GPUs of this host (absent: all), or CPU processes.")
@click.option("--ray-address", metavar="ADDRESS", help="Train on this Ray cluster (host:port, auto, local).")
@click.option("--dry-run", is_flag=True, help="Measure some steps, say how long it would take, and stop.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def retrain(
    run: str | None,
    key: str | None,
    front: int | None,
    genotype: Path | None,
    published: str | None,
    data: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    devices: int | None,
    ray_address: str | None,
    dry_run: bool,
    resume: bool,
):
    """Train an architecture at length on images: one that a run found, a genotype file, or a published one."""
    from nas.runs.folder import RESULTS
    from nas.space.published import named_genotype

    if sum(given is not None for given in (key, front, genotype, published)) != 1:
        raise click.UsageError("give one of --key, --front, --genotype and --published")
    if run is None and (key or front) is not None:
        raise click.UsageError("--key and --front need the RUN that found the architectures")
    network = named_genotype(published or str(genotype)) if published or genotype else None
    run_dir = RESULTS / "retrained" if run is None else _run(run)
    if ray_address and not devices:
        raise click.UsageError("--ray-address needs --devices, how many workers to train with")
    from nas.retrain import job as jobs
    from nas.retrain import run as retraining
    from nas.training.loop import NonFiniteLoss, Stopped

    options = {"recipe": recipe, "num_processes": devices or jobs.num_devices()}
    if dry_run:
        if front:
            raise click.UsageError("--dry-run goes with one architecture")
        from tqdm import tqdm

        from nas.retrain.estimate import estimate

        options["on_cluster"] = bool(ray_address)
        job = jobs.plan_job(run_dir, key or "", data, overrides, genotype=network, **options)
        found = estimate(job, options["num_processes"])
        left = tqdm.format_interval(3600 * found["hours"])
        click.echo(f"would take about {left}, measured in {found['num_steps']} steps", err=True)
        click.echo(json.dumps(found))
        return
    options["ray_address"] = ray_address
    try:
        if front:
            summary = retraining.retrain_front(run_dir, front, data, overrides, resume, **options)
        else:
            summary = retraining.run_retrain(run_dir, key or "", data, overrides, resume, genotype=network, **options)
    except NonFiniteLoss as end:
        click.echo(f"nas: the training diverged: {end}; a smaller retrain.learning_rate may hold", err=True)
        sys.exit(1)
    except jobs.RetrainFailed as end:
        click.echo(f"nas: {end}", err=True)
        sys.exit(1)
    except Stopped as end:
        click.echo(f"nas: {end}; everything is saved, go on with --resume", err=True)
        sys.exit(130)
    if summary:
        click.echo(json.dumps(summary))


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write resized copies here, as tar shards.")
@click.option("--size", type=click.IntRange(16), default=500, show_default=True, help="Shorter side in pixels.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the JPEG files.")
@click.option("--images-per-shard", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--max-bad", type=click.IntRange(0), default=0, show_default=True, help="Unreadable images left out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def prepare(
    data: Path, output: Path | None, size: int, quality: int, images_per_shard: int, max_bad: int, as_json: bool
):
    """Look at every image of a folder once, list what is wrong, and write shards for `nas retrain --data`."""
    from tqdm import tqdm

    from nas.data import prepare as preparing

    with tqdm(unit="image", disable=not sys.stderr.isatty()) as bar:
        summary = preparing.prepare(
            data,
            output,
            shorter_side=size,
            quality=quality,
            images_per_shard=images_per_shard,
            max_bad=max_bad,
            on_image=bar.update,
        )
    if as_json:
        click.echo(json.dumps(summary))
    else:
        for found in summary["files"]:
            click.echo(f"{found['path']}: {found['kind']} ({found['detail']})")
        images = ", ".join(f"{count:,} {part}" for part, count in summary["images"].items())
        click.echo(f"{images} images of {summary['classes']} classes, {summary['unreadable']} unreadable")
    if summary["unreadable"] > max_bad:
        click.echo(f"nas: {summary['unreadable']} unreadable images; --max-bad N leaves up to N out", err=True)
        sys.exit(1)
    if summary["shards"]:
        click.echo(f"{len(summary['shards'])} shards in {output}", err=True)


KEY = click.option("--key", default="", help="Key of the retrained architecture, or its first digits.")


@cli.command()
@click.argument("run")
@KEY
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with train/ and val/, class folders or shards, or hf:NAME."
)
@click.option("--resolution", "resolutions", type=click.IntRange(4), multiple=True, help="In pixels; may be repeated.")
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--device", help="cpu, cuda or cuda:N; absent: a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def evaluate(
    run: str,
    key: str,
    data: Path | None,
    resolutions: tuple[int, ...],
    batch_size: int,
    device: str | None,
    as_json: bool,
):
    """Measure the accuracy of a retrained network, at one resolution or several."""
    from nas.deploy import inference
    from nas.runs.folder import shared_cache

    run_dir, network = _retrained(run, key)
    found = inference.evaluate(
        network, data, shared_cache(run_dir), resolutions=resolutions, batch_size=batch_size, device=device
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        click.echo("{resolution} px: top1 {top1:.4f}  top5 {top5:.4f}  ({num_images} images)".format(**entry))


@cli.command()
@click.argument("run")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@KEY
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--device", help="cpu, cuda or cuda:N; absent: a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def predict(run: str, images: tuple[Path, ...], key: str, top: int, device: str | None, as_json: bool):
    """Name the likeliest classes of images with a retrained network."""
    from nas.deploy import inference

    found = inference.predict(_retrained(run, key)[1], images, top=top, device=device)
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        guesses = ", ".join(f"{guess['class']} {guess['probability']:.3f}" for guess in entry["guesses"])
        click.echo(f"{entry['image']}: {guesses}")


@cli.command()
@click.argument("run")
@KEY
@click.option("--format", "form", default="timm", show_default=True, help="timm, onnx, torch or source.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Absent: export/KEY/ in the run.")
@click.option("--upload", metavar="USER/NAME", help="Upload the timm export to Hugging Face.")
def export(run: str, key: str, form: str, output: Path | None, upload: str | None):
    """Write a retrained architecture for others to use.

    timm: its folder layout with a model card; onnx: for ONNX Runtime; torch: a torch.export program; source: one Python
    file. None of the last three needs opnas.
    """
    from nas.deploy import export as exports

    if upload and form != "timm":
        raise click.UsageError("--upload goes with --format timm")
    run_dir, network = _retrained(run, key)
    try:
        path = exports.run_export(run_dir, network, form, output)
    except exports.ExportError as end:
        click.echo(f"nas: {end}", err=True)
        sys.exit(1)
    if upload:
        click.echo(exports.upload(path, upload), err=True)
    click.echo(path)


@cli.command()
@click.argument("network", metavar="GENOTYPE|NAME")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--resolution", type=click.IntRange(4), default=224, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def profile(network: str, device: str, batch_size: int, resolution: int, dtype: str, as_json: bool):
    """Measure a published network or a genotype file: parameters, MACs, latency, memory, block by block."""
    from nas.measure.profile import profile_network, to_text

    result = profile_network(network, device, batch_size, resolution, dtype)
    click.echo(json.dumps(result) if as_json else to_text(result))


@cli.command()
@click.option("--format", "form", type=click.Choice(["json", "markdown"]), default="json", show_default=True)
def schema(form: str):
    """Print every key of experiment files: as JSON Schema for editors, or as Markdown tables for people."""
    from nas.config.reference import markdown
    from nas.config.schema import json_schema

    click.echo(markdown() if form == "markdown" else json.dumps(json_schema(), indent=2))


cli.add_command(bench)


def main() -> None:
    """The entry point: user mistakes become one message and exit code 2."""
    # pydantic would look for plugins in every installed distribution, 0.1 s per process; none has a part in this
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for ×
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as mistake:
        mistake.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as stop:
        stop = stop.__cause__ or stop  # click makes its own of Ctrl-C
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else str(stop)
        with suppress(OSError):  # the terminal may have gone
            click.echo(f"{how}; nothing finished is lost, go on with --resume", err=True)
        sys.exit(128 + number)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left, as `head` does
        sys.exit(0)
    except UserError as mistake:
        click.echo(f"nas: {mistake}", err=True)
        sys.exit(mistake.exit_code)
    except OSError as problem:
        if (known := of_place(problem)) is None:
            raise
        click.echo(f"nas: {known}", err=True)
        sys.exit(known.exit_code)


def _run(run: str) -> Path:
    from nas.runs.folder import find_run

    return find_run(run)


def _retrained(run: str, key: str):
    """The folder that a retrained network belongs to, and the network; RUN may be `retrained`, of those without."""
    from nas.deploy.retrained import find_retrained
    from nas.runs.folder import RESULTS

    run_dir = RESULTS / "retrained" if run == "retrained" else _run(run)
    return run_dir, find_retrained(run_dir, key)


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
