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
from typing import Any

import click

import nas
from nas.base.errors import Failed, UserError, host_error, of_package
from nas.base.ray_session import end_after_ray
from nas.base.signals import Stopped
from nas.bench.cli import bench
from nas.search.audit.cli import bundle, confirm, diff, verify

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
    options: dict[str, Any] = {"name": name, "results": results, "overrides": overrides, "resume": resume}
    if retry_failed and not resume:
        raise click.UsageError("--retry-failed goes with --resume: it is for the trials of a run that is there")
    if ship and not ray_address:
        raise click.UsageError("--ship goes with --ray-address: the package is sent to a cluster")
    if dry_run:
        plan = nas.plan(file, **options)
        for note in plan.notes:
            click.echo(f"note: {note}", err=True)
        plan.check(ray_address, ship)
        click.echo(plan)
        if not (plan.config.resources.gpus_per_trial and ray_address):  # which this machine need not have
            click.echo(plan.forecast_text())
        return
    run = nas.search(file, ray_address=ray_address, ship=ship, retry_failed=retry_failed, **options)
    click.echo(run)
    by_name = run.path.parent == Path("results")
    click.echo(f"\nnas dashboard {run.name if by_name else shlex.quote(str(run.path))}", err=True)
    if not run.report()["counts"]["complete"]:
        sys.exit(1)


@cli.command("list")
@click.argument("folder", default="results", type=click.Path(path_type=Path))
@click.option("--retrained", is_flag=True, help="Instead: the networks that were trained at length, of all runs.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list on stdout.")
def list_runs(folder: Path, retrained: bool, as_json: bool):
    """List the runs of a folder: state, trainings, and hypervolumes that can be compared."""
    _list(folder, retrained, as_json)


@cli.command()
@click.argument("run", default="results")
@click.option("--retrained", is_flag=True, help="Instead: the networks that were trained at length.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; of several runs, a list.")
def status(run: str, retrained: bool, as_json: bool):
    """Say how far a search is, and whether it is running; without RUN, or of a folder of runs, as `nas list`."""
    from nas.runs import status as states

    if run == "results" or _holds_runs(Path(run)) or retrained:
        _list(Path(run) if run == "results" or _holds_runs(Path(run)) else nas.Run(run).path, retrained, as_json)
        return
    found = nas.Run(run).status()
    click.echo(json.dumps(found) if as_json else states.to_text(found))


def _list(folder: Path, retrained: bool, as_json: bool) -> None:
    from nas.runs import status as states
    from nas.runs.findings.volume import compared

    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}/ here; allowed are the path of a run, and that of a folder of runs"
        )
    if retrained:
        found = states.retrained(folder)
        text = states.retrained_text(found)
    else:
        runs = {name: run.path for name, run in nas.find_runs(folder).items()}
        shares = compared(runs)
        found = [nas.Run(path).status() | {"hypervolume": shares[name]} for name, path in runs.items()]
        text = "\n".join(map(states.to_line, found)) or f"{folder}: no runs yet"
    click.echo(json.dumps(found) if as_json else text)


@cli.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the front to a PNG file.")
@click.option("--operators", is_flag=True, help="Instead: what each operator does, and which choices decide.")
@click.option(
    "--proxy", is_flag=True, help="Before, train networks longer, to see whether the search ranks them alike."
)
@click.option("--networks", type=click.IntRange(2), default=20, show_default=True, help="With --proxy: how many.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="With --proxy: how, such as proxy.epochs=36.")
@click.option("--ray-address", metavar="ADDRESS", help="With --proxy: train on this Ray cluster (host:port, or auto).")
def report(
    run: str,
    as_json: bool,
    plot: Path | None,
    operators: bool,
    proxy: bool,
    networks: int,
    overrides: tuple[str, ...],
    ray_address: str | None,
):
    """Print the Pareto front, the hypervolume and the failures of a run."""
    found = nas.Run(run)
    if (overrides or ray_address) and not proxy:
        raise click.UsageError("--set and --ray-address go with --proxy: they are about its trainings")
    if proxy:
        found.train_longer(networks, overrides, ray_address=ray_address)
    if operators:
        from nas.search.audit.attribution_text import attribution_text

        why = found.attribution()
        click.echo(json.dumps(why) if as_json else attribution_text(**why))
    else:
        click.echo(json.dumps(found.report()) if as_json else found)
    if plot:
        found.plot(plot)
        click.echo(f"drawn to {plot}", err=True)


@cli.command()
@click.argument("run", default="results")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one needs the token that is printed.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@click.option("--export", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to one HTML file.")
def dashboard(run: str, port: int, host: str, open_browser: bool, export: Path | None):
    """Serve the page of a run, or of all runs in a folder, on this machine."""
    folder = Path(run) if _holds_runs(Path(run)) else nas.Run(run).path
    if export:
        nas.dashboard.export_html(folder, export)
        click.echo(f"written to {export}", err=True)
        return
    nas.dashboard.serve(folder, port, open_browser, host)


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
@click.option(
    "--weights", metavar="proxy|supernet|FILE|FOLDER|RUN|hf:NAME", help="Start from these, as far as they fit."
)
@click.option("--name", default="", help="Keep it apart from other trainings of the network.")
@OVERRIDES
@click.option("--devices", type=click.IntRange(1), help="GPUs of this host (absent: all), or CPU processes.")
@click.option("--ray-address", metavar="ADDRESS", help="Train on this Ray cluster (host:port, auto, local).")
@click.option("--dry-run", is_flag=True, help="Measure some steps, say how long it would take, and stop.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; of several networks, a list.")
def retrain(
    run: str | None,
    key: str | None,
    front: int | None,
    genotype: Path | None,
    published: str | None,
    data: Path | None,
    recipe: str | None,
    weights: str | None,
    name: str,
    overrides: tuple[str, ...],
    devices: int | None,
    ray_address: str | None,
    dry_run: bool,
    resume: bool,
    as_json: bool,
):
    """Train an architecture at length on images: one that a run found, a genotype file, or a published one."""
    from tqdm import tqdm

    from nas.space.published import named_genotype

    _check_chosen(run, key, front, genotype, published)
    if ray_address and not devices:
        raise click.UsageError("--ray-address needs --devices, how many workers to train with")
    for given, option in ((dry_run, "--dry-run"), (weights, "--weights"), (name, "--name")):
        if given and front:
            raise click.UsageError(f"{option} goes with one architecture")
    network = named_genotype(published or str(genotype)) if published or genotype else key or ""
    found = nas.Run(run or "retrained")
    options: dict[str, Any] = {"recipe": recipe, "overrides": overrides, "devices": devices}
    if dry_run:
        time = found.estimate_retrain(network, data, on_cluster=bool(ray_address), **options)
        left = tqdm.format_interval(3600 * time["hours"])
        click.echo(f"would take about {left}, measured in {time['num_steps']} steps", err=True)
        click.echo(json.dumps(time))
        return
    options |= {"ray_address": ray_address, "resume": resume}
    if front:
        summary = found.retrain_front(front, data, **options)
    else:
        summary = found.retrain(network, data, weights=weights, name=name, **options)
    if not summary:  # the first process of several has it
        return
    from nas.retrain.training_log import front_text, summary_text

    if as_json:
        click.echo(json.dumps(summary))
    else:
        click.echo(front_text(summary) if isinstance(summary, list) else summary_text(summary))


def _check_chosen(
    run: str | None, key: str | None, front: int | None, genotype: Path | None, published: str | None
) -> None:
    """Refuse what does not say which architectures are to be trained."""
    if sum(given is not None for given in (key, front, genotype, published)) != 1:
        raise click.UsageError("give one of --key, --front, --genotype and --published")
    if run is None and (key or front) is not None:
        raise click.UsageError("--key and --front need the RUN that found the architectures")


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

    with tqdm(unit="image", disable=not sys.stderr.isatty()) as bar:
        summary = nas.prepare(
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
        for note in summary["notes"]:
            click.echo(f"note: {note}", err=True)
        images = ", ".join(f"{count:,} {part}" for part, count in summary["images"].items())
        click.echo(f"{images} images of {summary['classes']} classes, {summary['unreadable']} unreadable")
    if summary["unreadable"] > max_bad:
        click.echo(f"nas: {summary['unreadable']} unreadable images; --max-bad N leaves up to N out", err=True)
        sys.exit(1)
    if summary["shards"]:
        click.echo(f"{len(summary['shards'])} shards in {output}", err=True)


KEY = click.option("--key", default="", help="Key of the trained architecture, or its first digits.")
NAME = click.option("--name", default="", help="Which of several trainings of the architecture.")
WEIGHTS = click.option(
    "--weights",
    metavar="last|best|ema|proxy|FILE",
    default="last",
    show_default=True,
    help="Of the retraining those of the last epoch, of the best one, or the average; proxy: of the search itself.",
)


@cli.command()
@click.argument("run")
@KEY
@NAME
@WEIGHTS
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with train/ and val/, class folders or shards, or hf:NAME."
)
@click.option("--resolution", "resolutions", type=click.IntRange(4), multiple=True, help="In pixels; may be repeated.")
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--device", help="cpu, cuda or cuda:N; absent: a GPU where there is one.")
@click.option("--real-labels", type=click.Path(path_type=Path), help="ReaL's labels of ImageNet, its real.json.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def evaluate(
    run: str,
    key: str,
    name: str,
    weights: str,
    data: Path | None,
    resolutions: tuple[int, ...],
    batch_size: int,
    device: str | None,
    real_labels: Path | None,
    as_json: bool,
):
    """Measure the accuracy of a trained network, at one resolution or several."""
    trained = nas.Run(run).trained(key, name=name, weights=weights)
    found = trained.evaluate(
        data,
        resolutions=resolutions,
        batch_size=batch_size,
        device=device,
        real_labels=real_labels,
        say=lambda text: click.echo(f"note: {text}", err=True),
    )
    if as_json:
        click.echo(json.dumps(found))
        return
    for entry in found:
        line = "{resolution} px: top1 {top1:.4f}  top5 {top5:.4f}  ({num_images:,} images)  {dtype}".format(**entry)
        click.echo(line)
        if "float32" in entry:
            click.echo("        float32: top1 {top1:.4f}  top5 {top5:.4f}".format(**entry["float32"]))
        if "among_given" in entry:
            line = "        among their {num_classes} classes: top1 {top1:.4f}  top5 {top5:.4f}"
            click.echo(line.format(**entry["among_given"]))
        if "real" in entry:
            line = "        ReaL: top1 {top1:.4f}  top5 {top5:.4f}  ({num_images:,} images)"
            click.echo(line.format(**entry["real"]))


@cli.command()
@click.argument("run")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@KEY
@NAME
@WEIGHTS
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", help="cpu, cuda or cuda:N; absent: a GPU where there is one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="A table on stdout, an image in a line.")
def predict(
    run: str,
    images: tuple[Path, ...],
    key: str,
    name: str,
    weights: str,
    top: int,
    batch_size: int,
    device: str | None,
    as_json: bool,
    as_csv: bool,
):
    """Name the likeliest classes of images, or of all images in folders, with a trained network.

    The exit code is 1 where some image could not be read.
    """
    trained = nas.Run(run).trained(key, name=name, weights=weights)
    found = trained.predict(images, top=top, batch_size=batch_size, device=device)
    bad = [entry for entry in found if "error" in entry]
    if as_json or as_csv:
        from nas.deploy.inference import to_csv

        click.echo(json.dumps(found) if as_json else to_csv(found), nl=as_json)
    else:
        for entry in found:
            if "guesses" in entry:
                guesses = ", ".join(f"{guess['class']} {guess['probability']:.3f}" for guess in entry["guesses"])
                click.echo(f"{entry['image']}: {guesses}")
    for entry in bad:
        click.echo(f"nas: {entry['error']}", err=True)
    if bad:
        sys.exit(1)


@cli.command()
@click.argument("run")
@KEY
@NAME
@WEIGHTS
@click.option("--format", "form", default="timm", show_default=True, help="timm, onnx, torch or source.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Absent: export/KEY/ in the run.")
@click.option("--upload", metavar="USER/NAME", help="Upload the timm export to Hugging Face.")
@click.option("--opset", type=click.IntRange(7), help="Of onnx: version of its operations; absent: the exporter's.")
@click.option("--any-size", is_flag=True, help="Of onnx: height and width are free, not the batch alone.")
@click.option("--int8", is_flag=True, help="Of onnx and torch: in 8-bit integers too, both measured on images.")
@click.option("--aoti", is_flag=True, help="Of torch: compiled for this CPU by AOTInductor too, both measured.")
@click.option("--data", type=click.Path(path_type=Path), help="Images for --int8 and --aoti, as for nas evaluate.")
def export(
    run: str,
    key: str,
    name: str,
    weights: str,
    form: str,
    output: Path | None,
    upload: str | None,
    opset: int | None,
    any_size: bool,
    int8: bool,
    aoti: bool,
    data: Path | None,
):
    """Write a trained architecture for others to use.

    timm: its folder layout with a model card; onnx: for ONNX Runtime; torch: a torch.export program; source: one Python
    file. None of the last three needs opnas.
    """
    if upload and form != "timm":
        raise click.UsageError("--upload goes with --format timm")
    trained = nas.Run(run).trained(key, name=name, weights=weights)
    path = trained.export(
        form,
        output,
        opset=opset,
        any_size=any_size,
        int8=int8,
        aoti=aoti,
        data=data,
        say=lambda text: click.echo(f"note: {text}", err=True),
    )
    if upload:
        click.echo(trained.upload(path, upload), err=True)
    click.echo(path)


@cli.command()
@click.argument("network", metavar="GENOTYPE|NAME|RUN|FILE")
@click.option("--key", help="Key of an architecture that RUN found, or its first digits.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--resolution", type=click.IntRange(4), help="In pixels; absent: 224, or that of the run's proxy.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option(
    "--runtime",
    type=click.Choice(["torch", "compile", "graph", "onnxruntime"]),
    default="torch",
    show_default=True,
    help="What runs the network while its latency is measured.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of a CPU.")
@click.option("--table", is_flag=True, help="Of an experiment FILE: latency of all parts, and how well they predict.")
@click.option("--networks", type=click.IntRange(5), default=50, show_default=True, help="With --table: to predict.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def profile(
    network: str,
    key: str | None,
    device: str,
    batch_size: int,
    resolution: int | None,
    dtype: str,
    runtime: str,
    threads: int,
    table: bool,
    networks: int,
    as_json: bool,
):
    """Measure a network: parameters, MACs, latency, memory, block by block.

    A published one by its NAME, one in a GENOTYPE file, or with --key one that a RUN found, for its proxy's images.
    With --table the parts of all networks of an experiment FILE, as its objective latency_ms asks, kept in results/.
    """
    if table:
        found = nas.latency_table(network, networks, say=lambda text: click.echo(text, err=True))
        click.echo(json.dumps(found) if as_json else found["text"])
        return
    from nas.measure.profile import to_text

    options: dict[str, Any] = {"runtime": runtime, "threads": threads}
    if key is not None:
        from nas.config.reading import load
        from nas.search.surrogate.known_costs import channels_and_classes

        found = nas.Run(network)
        proxy = load(found.path / "resolved.yaml").proxy
        channels, classes = channels_and_classes(proxy)
        options |= {"genotype": found.genotype(key), "channels": channels, "num_classes": classes}
        resolution = resolution or proxy.resolution
    result = nas.profile_network(network, device, batch_size, resolution or 224, dtype, **options)
    click.echo(json.dumps(result) if as_json else to_text(result))


@cli.command()
@click.option("--format", "form", type=click.Choice(["json", "markdown"]), default="json", show_default=True)
def schema(form: str):
    """Print every key of experiment files: as JSON Schema for editors, or as Markdown tables for people."""
    from nas.config.reference import markdown

    click.echo(markdown() if form == "markdown" else json.dumps(nas.json_schema(), indent=2))


for command in (bench, bundle, confirm, diff, verify):
    cli.add_command(command)


def main() -> None:
    """The entry point: user mistakes become one message and exit code 2."""
    try:
        code = _outcome()
    except SystemExit as end:
        code = int(end.code or 0)
    end_after_ray(code)
    sys.exit(code)


def _outcome() -> int:
    """Run the command that was asked for; its exit code, after what there was to say."""
    # pydantic would look for plugins in every installed distribution, 0.1 s per process; none has a part in this
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for ×
    try:
        return cli(standalone_mode=False) or 0
    except click.ClickException as mistake:
        mistake.show()
        return 2
    except (click.Abort, KeyboardInterrupt) as stop:
        stop = stop.__cause__ or stop  # click makes its own of Ctrl-C
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else str(stop)
        verb = cli.commands.get(next((word for word in sys.argv[1:] if word in cli.commands), ""))
        resumes = verb is not None and any(option.name == "resume" for option in verb.params)
        goes_on = "goes on, nothing finished is lost" if verb is confirm else "begins anew"
        way_out = "nothing finished is lost, go on with --resume" if resumes else f"the same command {goes_on}"
        with suppress(OSError):  # the terminal may have gone
            click.echo(f"{how}; {way_out}", err=True)
        return 128 + number
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left, as `head` does
        return 0
    except (UserError, Failed) as mistake:
        click.echo(f"nas: {mistake}", err=True)
        return mistake.exit_code
    except Exception as problem:
        explained = host_error(problem) or of_package(problem)
        if explained is None:
            raise
        click.echo(f"nas: {explained}", err=True)
        return explained.exit_code


def _holds_runs(folder: Path) -> bool:
    """Whether a path is a folder of runs, not a run."""
    return folder.is_dir() and not (folder / "resolved.yaml").exists()


if __name__ == "__main__":
    main()
