"""Take the pictures under results/dashboard/ from a run: light, dark, narrow, compared, health, pages, states.

scripts/dashboard_screenshots.py results/quickstart
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from playwright.sync_api import Browser, Page  # noqa: E402

from helpers.browser import chromium  # noqa: E402
from helpers.dashboard_pages import served  # noqa: E402
from nas.runs.reader import RunReader  # noqa: E402

READY = "#chart[data-ready]"


@dataclass(frozen=True)
class Picture:
    """A page to take: its address within the dashboard, what must be there, and how wide and in which colours."""

    name: str
    path: str
    there: str
    scheme: str = "light"
    width: int = 1280
    height: int = 1000
    health: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "dashboard")
    options = parser.parse_args()
    members = [row.number for row in RunReader(options.run).refresh().front()]
    options.output.mkdir(parents=True, exist_ok=True)
    with folder_of(options.run) as folder, served(Path("results"), cwd=folder) as url, chromium() as browser:
        for picture in pictures(options.run.resolve().name, members[len(members) // 2], members[-1]):
            take(browser, url, picture, options.output / f"{picture.name}.png")
            print(f"{picture.name}.png")


def pictures(run: str, a: int, b: int) -> list[Picture]:
    compared = f"/run/{run}#a={a}&b={b}"
    return [
        Picture("run", f"/run/{run}#a={a}&colour=most", READY),
        Picture("dark", f"{compared}&colour=most", READY, scheme="dark"),
        Picture("compared", compared, READY, height=1400),
        Picture("health", f"/run/{run}#a={b}", READY, height=2200, health=True),
        Picture(
            "parallel", f"/run/{run}#a={a}&colour=most&parallel=1&trials=in.top1%3D60..", "#parallel .rail", height=2000
        ),
        Picture("narrow", f"/run/{run}#a={a}", READY, width=420, height=1600),
        Picture("runs", f"/#run={run}&run=shorter", "#overlay .scatterlayer", height=760),
        Picture("trial", f"/run/{run}/trial/{a}", "#parts .scatterlayer", height=1400),
        Picture("state-waiting", "/run/empty", "#empty", height=420),
        Picture("state-nothing-under-the-cap", f"/run/{run}#cap=0.001", "#empty button", height=560),
        Picture("state-unreadable", "/run/broken", "#unreadable:not([hidden])", height=1300, health=True),
    ]


@contextmanager
def folder_of(run: Path) -> Iterator[Path]:
    """A folder whose results/ has the run, its first half, none of its trials, and an unreadable one."""
    with tempfile.TemporaryDirectory() as folder:
        copies = {name: Path(folder) / "results" / name for name in (run.resolve().name, "shorter", "empty", "broken")}
        for copy in copies.values():
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("ray", "checkpoints", "study.db*", "*.lock"))
        records = sorted((copies["shorter"] / "trials").glob("*.json"), key=lambda path: int(path.stem))
        for record in records[len(records) // 2 :]:
            record.unlink()
        shutil.rmtree(copies["empty"] / "trials")
        broken = copies["broken"] / "trials" / records[0].name
        broken.write_text(broken.read_text(encoding="utf-8")[:200], encoding="utf-8")
        yield Path(folder)


def take(browser: Browser, url: str, picture: Picture, file: Path) -> None:
    context = browser.new_context(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.scheme == "dark" else "light",
    )
    page: Page = context.new_page()
    page.goto(f"{url}{picture.path}")
    if picture.health and not page.locator("#health-details[open]").count():
        page.locator("#health-details summary").click()
    page.locator(picture.there).first.wait_for(timeout=60_000, state="attached")
    if picture.health:
        page.locator("#pace-chart .scatterlayer").wait_for(timeout=60_000, state="attached")
    if picture.name in ("run", "health", "narrow"):  # what is asked for after the chart: noise
        page.locator("#front thead", has_text="P on").wait_for(timeout=60_000, state="attached")
    if "#a=" in picture.path:
        page.locator("#panel .curve .scatterlayer").wait_for(timeout=60_000, state="attached")
    page.screenshot(path=file)
    context.close()


if __name__ == "__main__":
    main()
