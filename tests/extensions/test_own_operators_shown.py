"""Operators of one's own in pictures and pages, of runs that are read without their code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.dashboard_pages import columns_of, elsewhere, served, whole_view
from helpers.run_samples import EXPERIMENT, experiment, make_run
from nas.runs.reader import RunReader
from nas.runs.report_picture import OWN_COLOURS, operator_colours, plot

KINDS = ["conv", "involution", "odconv", "scconv", "gnconv", "my_ops:Shift", "lab.mixers:Mix"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    operators = {"conv3": {"op": "conv"}, "shift2": {"op": KINDS[5], "distance": 2}, "mix": {"op": KINDS[6]}}
    config = experiment(space=EXPERIMENT["space"] | {"operators": operators})
    return make_run(tmp_path_factory.mktemp("results") / "own", 40, config)


def test_the_page_is_told_of_them_after_those_of_the_package(run_dir):
    head, columns = columns_of(whole_view(run_dir).snapshot())
    assert head["operators"] == KINDS and head["kinds"]["shift2"] == "my_ops:Shift"
    assert {5, 6} <= {*columns["last"].tolist()} <= {0, 5, 6, 255}
    assert not RunReader(run_dir).refresh().unreadable


def test_the_picture_has_a_colour_for_each(run_dir, tmp_path):
    plot(run_dir, tmp_path / "front.svg")
    text = (tmp_path / "front.svg").read_text(encoding="utf-8").lower()
    used = [colour.lower() for colour in OWN_COLOURS[:2]]
    assert all(colour in text for colour in used), used
    many = operator_colours([f"m:Op{i}" for i in range(6)])
    assert len(many) == 11 and many["m:Op4"] == many["m:Op0"]


def colours_of(page: Page, selector: str) -> set[str]:
    return set(
        page.eval_on_selector_all(selector, "nodes => nodes.map((node) => getComputedStyle(node).backgroundColor)")
    )


def hexadecimal(colour: str) -> str:
    return "#" + "".join(f"{int(part):02X}" for part in re.findall(r"\d+", colour)[:3])


def test_pages_colour_them_in_table_legend_and_diagram(run_dir, open_page):
    with served(run_dir.parent) as url:
        page = open_page(f"{url}/run/own#colour=last")
        page.locator("#chart[data-ready]").wait_for()
        expect(page.locator("#legend")).to_contain_text("my_ops:Shift")
        for selector in ("#front .swatch", "#strip .swatch", "#legend .swatch"):
            assert set(OWN_COLOURS[:2]) & {hexadecimal(colour) for colour in colours_of(page, selector)}, selector
        page.goto(f"{url}/run/own/trial/0")
        page.locator(".diagram").wait_for()
        found = {hexadecimal(colour) for colour in colours_of(page, ".diagram .swatch")}
        assert found and found <= {"#777F88", *OWN_COLOURS[:2]}, found
        page.goto(elsewhere())
