"""What the page of a search for detectors is told, without a browser: box AP, neck and head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helpers.dashboard_pages import columns_of, whole_view
from helpers.detection import CONFIG, SPACE
from helpers.run_samples import make_run, sample_record
from nas.dashboard.asked.what_if import form
from nas.dashboard.columns import architectures
from nas.dashboard.details import details
from nas.runs.findings.effects import effects
from nas.runs.reader import RunReader
from nas.runs.record import write_record
from nas.runs.report import report
from nas.runs.report_text import to_text
from nas.search.audit.attribution import attribution
from nas.search.audit.attribution_text import attribution_text
from nas.search.audit.what_if import WhatIf

GAIN = {"conv3": 0.0, "dw3": -0.05, "gn2": 0.1}
"""What the operator of the neck adds."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunReader:
    folder = make_run(tmp_path_factory.mktemp("detectors") / "found", 0, CONFIG)
    for number in range(40):
        made = sample_record(SPACE, number)
        ap = 0.2 + GAIN[str(made.params["dense.neck"])] + 0.001 * (number % 5)
        curve: list[dict[str, Any]] = [{"epoch": 1, "box_ap": ap, "train_loss": 1.0, "seconds": 1.0}]
        told = {"box_ap": ap, "num_params": float(made.costs["num_params"])}
        evaluations = [{"evaluator": "train", "figures": {"box_ap": ap}, "seconds": 1.0, "epochs": 1}]
        write_record(folder, replace(made, objectives=told, curve=curve, evaluations=evaluations))
    return RunReader(folder).refresh()


def test_neck_and_head_stand_behind_the_stages(run):
    found = effects(run)
    assert found and {row["place"] for row in found["rows"]} == {"stage 1", "stage 2", "neck", "head"}
    changes = {row["label"]: row["changes"]["box_ap"] for row in found["rows"] if row["place"] == "neck"}
    for label, change in changes.items():
        assert change["change"] == pytest.approx(GAIN[label] - GAIN[found["baseline"]], abs=0.01)
    told = attribution(run)
    assert told and told["baseline"] in ("conv3", "dw3")
    (row,) = (row for row in told["rows"] if (row["place"], row["label"]) == ("neck", "gn2"))
    assert row["changes"]["box_ap"]["change"] == pytest.approx(GAIN["gn2"] - GAIN[told["baseline"]], abs=0.04)
    assert {row["place"] for row in told["rows"]} == {"stage 1", "stage 2", "neck", "head"}
    assert "neck" in attribution_text(told, None, None)
    head, columns = columns_of(architectures(run))
    assert head["places"] == ["stage 1", "stage 2", "stage 3", "neck", "head"]
    assert set(columns["depth"].tolist()) == {3.0}  # blocks of stages alone
    text = to_text(report(run.path))
    assert "box AP" in text and "neck gn2" in text and "top-1" not in text


def test_what_a_page_says_of_a_detector(run):
    told = details(run, 3)
    params = run.record(3).params
    words = f"neck {params['dense.neck']} of {params['dense.fpn_channels']} channels, retinanet {params['dense.head']}"
    assert told["head"] == words and told["command"] == "" and told["values"]["box_ap"] > 0
    view, _ = columns_of(whole_view(run.path).snapshot())
    assert view["summary"]["objectives"][0]["name"] == "box_ap"
    assert [entry["name"] for entry in form(run, 3)["others"]] == ["dense.neck", "dense.head", "dense.fpn_channels"]


def test_what_a_detector_would_reach_is_predicted(run):
    asked = WhatIf(run)
    params = {**run.record(3).params, "dense.neck": "gn2"}
    best, worst = (asked.answer({**params, "dense.neck": neck})["predicted"]["box_ap"] for neck in ("gn2", "dw3"))
    assert best["value"] > worst["value"] + 0.08
    problems = asked.answer({**params, "dense.neck": "gn3"})["problems"]
    assert problems == ["neck: gn3 is not offered by this space; it has dw3, conv3, gn2"]
