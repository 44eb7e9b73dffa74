"""Measure the dashboard on runs of many trials, and optuna-dashboard on the same trials.

    scripts/bench_dashboard.py --output results/dashboard/figures.json
    scripts/bench_dashboard.py --trials 1000 10000 --optuna-dashboard VENV/bin/optuna-dashboard
    scripts/bench_dashboard.py --beside CHECKOUT    (pages of another version of this package in turn with ours)

Records are written as a search writes them (by a formula, nothing is trained), the server is the real command, the
browser a real Chromium with a fresh profile per page. Times are seconds from the navigation; medians of `--repeat`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import psutil  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402

from helpers.browser import chromium  # noqa: E402
from helpers.run_samples import experiment, make_run, sample_record  # noqa: E402
from nas.dashboard import export_html  # noqa: E402
from nas.space.search_space import SearchSpace  # noqa: E402

NUM_NETWORKS, LIVE_SECONDS, LIVE_AT = 400, 20, 10_000
MOST_FOR_OPTUNA, OPTUNA_SECONDS = 10_000, 400
TASKS = """window.longest = 0;
const watch = (list) => list.getEntries().forEach((task) => (window.longest = Math.max(window.longest, task.duration)));
new PerformanceObserver(watch).observe({ type: "longtask", buffered: false });"""
COUNTED = """const counted = () => {
  const text = document.querySelector("#progress-text");
  if (!text?.textContent.startsWith(%s) || !document.querySelector("#reading").hidden) return;
  watching.disconnect();
  window.counted = performance.now();
};
const watching = new MutationObserver(counted);
watching.observe(document, { childList: true, characterData: true, subtree: true, attributes: true });"""
SEEN = """window.seen = {};
const words = document.querySelector("#progress-text");
const note = () => (window.seen[words.textContent.split(" ")[0]] ??= Date.now());
new MutationObserver(note).observe(words, { childList: true, characterData: true, subtree: true });"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--optuna-dashboard", type=Path, help="The command in an environment that has it.")
    parser.add_argument("--beside", type=Path, help="Another checkout.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    asked = f"scripts/bench_dashboard.py --trials {' '.join(map(str, options.trials))} --repeat {options.repeat}"
    compared = " --optuna-dashboard VENV/bin/optuna-dashboard" if options.optuna_dashboard else ""
    beside = " --beside CHECKOUT" if options.beside else ""
    figures: dict[str, Any] = {"command": asked + compared + beside, **_machine()}
    if options.beside:
        revision = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
        figures["beside"] = subprocess.run(revision, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for num_trials in options.trials:
            run = Path(folder) / f"run{num_trials}"
            written = write_run(run, num_trials)
            print(f"{num_trials} trials written", file=sys.stderr, flush=True)
            found = measure(browser, run, num_trials, options.repeat, options.beside)
            if options.optuna_dashboard and num_trials <= MOST_FOR_OPTUNA:
                found["optuna_dashboard"] = measure_optuna(browser, options.optuna_dashboard, written, Path(folder))
            figures[str(num_trials)] = found
            print(json.dumps({num_trials: found}, indent=1), flush=True)
            if options.output:
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def write_run(run: Path, num_trials: int) -> list[tuple[float, float]]:
    """A run of that many records; gives the objectives (latency, accuracy) of the complete ones."""
    config = experiment(search={"sampler": "nsga2", "num_trials": num_trials + 1000, "seed": 7})
    make_run(run, 0, config)
    space = SearchSpace(config.space)
    networks = [sample_record(space, number) for number in range(NUM_NETWORKS)]
    points = []
    for number in range(num_trials):
        text, point = _record(networks[number % NUM_NETWORKS], number)
        (run / "trials" / f"{number}.json").write_text(text, encoding="utf-8")
        points += [point] if point else []
    return points


def _record(network: Any, number: int) -> tuple[str, tuple[float, float] | None]:
    """A record with the network of another and figures of its own."""
    draw = random.Random(number)
    state = {7: "stopped", 13: "failed", 17: "rejected"}.get(number % 20, "complete")
    latency = network.costs["latency_ms"] * draw.uniform(0.9, 1.3)
    top1 = min(network.curve[-1]["top1"] + draw.gauss(0, 0.02), 0.999) if network.curve else 0.5
    record = dataclasses.replace(
        network,
        number=number,
        key=f"{number:012x}",
        state=state,
        objectives={"latency_ms": latency} | ({"top1": top1} if state in ("complete", "stopped") else {}),
        costs=network.costs | {"latency_ms": latency},
        num_validation=10_000 if state in ("complete", "stopped") else 0,
        error="non_finite_loss: epoch 2" if state == "failed" else None,
        started=1.76e9 + 10 * number,
        finished=1.76e9 + 10 * number + 20,
    )
    return record.to_json(), (latency, top1) if state == "complete" else None


def measure(browser: Browser, run: Path, num_trials: int, repeat: int, beside: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {"ready_s": [], "chart_s": [], "all_trials_s": [], "plotly_s": [], "details_ms": []}
    shown = f"{num_trials - num_trials // 20:,}"
    for _ in range(repeat):
        with served(run) as (_, seconds, _):
            found["ready_s"].append(seconds)
    with served(run) as (url, _, process):
        with opened(browser) as page:  # while the server still reads
            found["first_reading"] = _marks(page, f"{url}/run/{run.name}", shown)
        if beside:
            found["beside"] = measure_beside(browser, run, shown, repeat, url, beside)
        for _ in range(repeat):
            with opened(browser) as page:
                sizes: list[int] = []
                page.on("requestfinished", lambda request, to=sizes: to.append(request.sizes()["responseBodySize"]))
                marks = _marks(page, f"{url}/run/{run.name}", shown)
                for name in marks:
                    found[name].append(marks[name])
                found["wire_bytes"] = sum(sizes)
                found["details_ms"] += [_details_ms(page, i) for i in range(3)]
        found["server_mb"] = process.memory_info().rss / 1e6
        if num_trials == LIVE_AT:
            found["live"] = measure_live(browser, url, run, num_trials)
    if num_trials <= LIVE_AT:
        found["export"] = measure_export(browser, run, repeat)
    return {name: _summary(value) if isinstance(value, list) else value for name, value in found.items()}


def measure_beside(
    browser: Browser, run: Path, shown: str, repeat: int, url: str, checkout: Path
) -> dict[str, dict[str, Any]]:
    """Pages of ours and of another checkout, in turn, once both servers have read the run."""
    found: dict[str, dict[str, list[float]]] = {"ours": {}, "other": {}}
    with served(run, checkout) as (other, _, _):
        for at in range(repeat + 1):
            for name, address in (("ours", url), ("other", other)):
                with opened(browser) as page:
                    for mark, seconds in _marks(page, f"{address}/run/{run.name}", shown).items():
                        found[name].setdefault(mark, []).extend([seconds] if at else [])  # the first is a warm-up
    return {name: {mark: _summary(values) for mark, values in marks.items()} for name, marks in found.items()}


def _marks(page: Page, url: str, shown: str) -> dict[str, float]:
    """Seconds from navigation to the first chart, to all trials counted in the head, to Plotly's chart."""
    page.add_init_script(COUNTED % json.dumps(shown))
    page.goto(url)
    page.wait_for_function("() => window.counted && performance.getEntriesByName('plotly').length", timeout=300_000)
    marked = "['chart', 'plotly'].map((name) => performance.getEntriesByName(name)[0].startTime)"
    first, plotly, counted = page.evaluate(f"[...{marked}, window.counted].map((time) => time / 1000)")
    return {"chart_s": first, "all_trials_s": max(counted, first), "plotly_s": plotly}


def _details_ms(page: Page, row: int) -> float:
    """From the click on a row of the front to its network in the panel."""
    return page.evaluate(
        """async (row) => {
          const button = document.querySelectorAll("#front tbody button.key")[row];
          const begin = performance.now();
          button.click();
          const shown = () => document.querySelector("#panel .selected.a")?.textContent.includes(button.textContent);
          while (!shown()) await new Promise(requestAnimationFrame);
          return performance.now() - begin;
        }""",
        row,
    )


def measure_live(browser: Browser, url: str, run: Path, num_trials: int) -> dict[str, Any]:
    """A trial a second: seconds from the record's renaming to its count on the page; longest block of the page."""
    network = sample_record(SearchSpace(experiment().space), 1)
    with opened(browser) as page:
        page.goto(f"{url}/run/{run.name}")
        page.wait_for_function("() => performance.getEntriesByName('plotly').length", timeout=60_000)
        page.evaluate(SEEN)
        page.evaluate(TASKS)
        begun: dict[str, float] = {}
        trained = num_trials - num_trials // 20
        number = num_trials
        for _ in range(LIVE_SECONDS):
            text, point = _record(network, number)
            while point is None:
                number += 1
                text, point = _record(network, number)
            (run / "trials" / ".new").write_text(text, encoding="utf-8")
            trained += 1
            begun[f"{trained:,}"] = time.time()
            (run / "trials" / ".new").rename(run / "trials" / f"{number}.json")
            number += 1
            time.sleep(random.uniform(0.8, 1.2))
        time.sleep(2)
        seen = page.evaluate("window.seen")
        delays = [seen[count] / 1000 - at for count, at in begun.items() if count in seen]
        longest = page.evaluate("window.longest")
    return {"seen": len(delays), "of": len(begun), "delay_s": _summary(delays), "longest_task_ms": longest}


def measure_export(browser: Browser, run: Path, repeat: int) -> dict[str, Any]:
    file = run.parent / f"{run.name}.html"
    export_html(run, file)
    times = []
    for _ in range(repeat):
        with opened(browser) as page:
            page.goto(f"file://{file}")
            page.wait_for_function("() => performance.getEntriesByName('chart').length", timeout=60_000)
            times.append(page.evaluate("performance.getEntriesByName('chart')[0].startTime / 1000"))
    return {"bytes": file.stat().st_size, "chart_s": _summary(times)}


def measure_optuna(browser: Browser, command: Path, points: list[tuple[float, float]], folder: Path) -> dict[str, Any]:
    """The same points in a study of JournalStorage, the fastest that optuna-dashboard opens; one page."""
    journal = folder / f"{len(points)}.journal"
    script = (
        "import json, optuna, sys\n"
        "from optuna.storages.journal import JournalFileBackend\n"
        "optuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "storage = optuna.storages.JournalStorage(JournalFileBackend(sys.argv[1]))\n"
        "study = optuna.create_study(storage=storage, directions=['minimize', 'maximize'])\n"
        "names = {f'p{i}': optuna.distributions.CategoricalDistribution(list('abcde')) for i in range(18)}\n"
        "def make(i, values):\n"
        "    params = {name: 'abcde'[(i * 7 + j) % 5] for j, name in enumerate(names)}\n"
        "    return optuna.trial.create_trial(values=values, params=params, distributions=names)\n"
        "study.add_trials([make(i, values) for i, values in enumerate(json.load(sys.stdin))])\n"
    )
    subprocess.run([command.parent / "python", "-c", script, journal], input=json.dumps(points), text=True, check=True)
    port = _free_port()
    process = subprocess.Popen(
        [command, journal, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _await(f"http://127.0.0.1:{port}/")
        with opened(browser) as page:
            begin = time.monotonic()
            page.goto(f"http://127.0.0.1:{port}/dashboard/studies/0")
            drawn = """(wanted) => [...document.querySelectorAll(".js-plotly-plot")].some(
              (plot) => plot.data?.reduce((sum, trace) => sum + (trace.x?.length ?? 0), 0) >= wanted)"""
            try:
                page.wait_for_function(drawn, arg=int(0.9 * len(points)), timeout=1000 * OPTUNA_SECONDS, polling=100)
                seconds: float | None = time.monotonic() - begin
            except Exception as error:
                print(f"optuna-dashboard: {str(error).splitlines()[0]}", file=sys.stderr)
                seconds = None
        memory = psutil.Process(process.pid).memory_info().rss / 1e6
        return {"chart_s": seconds, "given_up_after_s": OPTUNA_SECONDS, "server_mb": memory, "n": 1}
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def served(run: Path, checkout: Path = ROOT) -> Iterator[tuple[str, float, psutil.Process]]:
    """The command; gives the URL, the seconds until it answered with the page of the run, its process."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "nas.cli", "dashboard", str(run), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout)
    try:
        assert process.stdout
        found = re.search(r"http://[^/]+", process.stdout.readline())
        assert found
        _await(f"{found[0]}/run/{run.name}")
        yield found[0], time.monotonic() - begin, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        yield context.new_page()
    finally:
        context.close()


def _await(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=30).read()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _summary(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def _machine() -> dict[str, Any]:
    names = ("starlette", "uvicorn", "plotly", "playwright", "numpy")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
