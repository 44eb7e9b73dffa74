"""`nas bench`: the commands that benchmark kernels and samplers."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def bench():
    """Measure kernels on this machine, and the search on spaces where it costs nothing."""


BENCH_DEVICE = click.option("--device", default="cuda", show_default=True, help="cuda or cpu.")
SECONDS = click.option("--seconds", type=click.FloatRange(1), default=480.0, show_default=True, help="Time to spend.")


@bench.command("kernels")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON, written as it goes.")
@click.option("--suite", type=click.Choice(["core", "networks", "slot", "tiny"]), default="core", show_default=True)
@BENCH_DEVICE
@SECONDS
@click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile as one more form.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="A picture of it, png, svg or pdf.")
def bench_kernels(out: Path, suite: str, device: str, seconds: float, compiled: bool, plot: Path | None):
    """Time every operation, pass and shape by our kernels and every other form, then whole networks."""
    from nas.bench import plots as bench_plots
    from nas.bench.kernels import bench

    found = bench(out, suite, device, seconds, compiled)
    if plot:
        bench_plots.plot(found, plot)
    rows = found["rows"]
    click.echo(f"{len(rows)} rows in {out}", err=True)
    wrong = [row for row in rows if row["form"].startswith("triton") and "error" in row]
    for row in wrong:
        click.echo(f"{row['op']} {row['pass']} {row['dtype']} {row['size']}: {row['error']}", err=True)
    sys.exit(1 if wrong else 0)


@bench.command("tune")
@click.argument("file_or_network")
@click.option("--device", default="cpu", show_default=True, help="cuda or cpu, of a network; a file says it itself.")
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Images, of a network.")
@click.option("--resolution", type=click.IntRange(4), default=224, show_default=True, help="Pixels, of a network.")
@click.option("--training", is_flag=True, help="A network's training instead of its inference.")
def bench_tune(file_or_network: str, device: str, batch_size: int, resolution: int, training: bool):
    """Measure which form of each kernel is the fastest here, ahead of the searches of a FILE or for a NETWORK: a
    published one, or a genotype in a file. What it finds is kept in results/.cache for all searches."""
    from nas.bench.tune import tune_network, tune_space

    if file_or_network.endswith((".yaml", ".yml")):
        click.echo(tune_space(Path(file_or_network)), err=True)
    else:
        click.echo(tune_network(file_or_network, device, batch_size, resolution, training), err=True)


@bench.command("search")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON; goes on with it.")
@click.option("--table", type=click.Path(path_type=Path), help="A table of trained networks besides; see scripts/.")
@click.option(
    "--cost", type=click.Choice(["latency_ms", "num_macs", "num_params"]), default="latency_ms", help="Of the table."
)
@click.option("--spaces", type=click.IntRange(0), default=5, show_default=True, help="Synthetic spaces.")
@click.option("--sampler", "samplers", multiple=True, help="One of those compared; may be repeated; absent: all.")
@click.option("--scheduler", "schedulers", multiple=True, help="none, mo_asha or freeze_thaw; absent: all.")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="Searches of each kind per space.")
@click.option("--trainings", type=click.IntRange(1), default=100, show_default=True)
@click.option("--epochs", type=click.IntRange(1), help="End a search that has trained so many.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trainings at once.")
@click.option("--seconds", type=click.FloatRange(1), default=1e9, help="Begin no search after so long.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw all of it to a PNG file.")
def bench_search(
    out: Path,
    table: Path | None,
    cost: str,
    spaces: int,
    samplers: tuple[str, ...],
    schedulers: tuple[str, ...],
    seeds: int,
    trainings: int,
    epochs: int | None,
    workers: int,
    seconds: float,
    plot: Path | None,
):
    """Compare samplers, with and without early stopping, where trainings cost nothing."""
    from nas.bench.search import run as benching
    from nas.bench.search.picture import plot as draw
    from nas.bench.search.summary import to_text
    from nas.bench.search.synthetic import SyntheticSpace
    from nas.bench.search.table import TableSpace

    for chosen, allowed in ((samplers, benching.SAMPLERS), (schedulers, benching.SCHEDULERS)):
        for name in set(chosen) - set(allowed):
            raise click.UsageError(f"{name!r} is not compared; allowed are {', '.join(allowed)}")
    asked = [*([TableSpace(table, cost)] if table else []), *(SyntheticSpace(seed) for seed in range(spaces))]
    result = benching.bench(
        out,
        asked,
        samplers or benching.SAMPLERS,
        schedulers or benching.SCHEDULERS,
        range(seeds),
        trainings,
        seconds,
        epochs or float("inf"),
        workers,
    )
    click.echo(to_text(result))
    if plot:
        draw(result, plot)
        click.echo(f"drawn to {plot}", err=True)


@bench.command("evaluators")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSON; goes on with it.")
@click.option("--table", type=click.Path(path_type=Path), required=True, help="A table of trained networks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the weights and the images.")
@click.option("--networks", type=click.IntRange(3), help="So many of them, drawn; absent: all.")
def bench_evaluators(out: Path, table: Path, seed: int, networks: int | None):
    """How well zero-cost scores, counts and short trainings rank the trained networks of a table."""
    from nas.bench import evaluators

    click.echo(evaluators.to_text(evaluators.bench(out, table, seed, networks)))
