"""A search for detectors: its records, its report, what is killed and goes on, what is only of classifiers."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch

from helpers.detection import CONFIG, DETECTION, SPACE
from helpers.searches import ended, nas, report, results, running
from helpers.trainings import timeless
from nas.base.errors import UserError
from nas.config.reading import loads
from nas.runs.record import TrialRecord, read_records
from nas.search.evaluators.context import TrialContext
from nas.search.run import check_machine
from nas.search.trial import TrialTask, run_trial
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search whose driver and workers were killed after its first training, and that went on."""
    folder = tmp_path_factory.mktemp("detection")
    (folder / "found.yaml").write_text(DETECTION)
    with running(folder, "search", "found.yaml") as driver:
        while not list(folder.glob("results/found/trials/*.json")) and driver.poll() is None:
            time.sleep(0.05)
        assert driver.poll() is None, (folder / "driver.log").read_text()
        driver.send_signal(signal.SIGKILL)
    before = {record.number: record for record in read_records(folder / "results/found")}
    nas(folder, "search", "--resume", "results/found")
    return folder, before


def label_of(entry, place):
    return SPACE.label(getattr(Genotype.from_dict(entry["genotype"]).dense, place))


def test_a_killed_search_goes_on_and_repeats_nothing(searched):
    folder, before = searched
    records = results(folder / "results/found")
    trained = [record for record in records if record.state != "rejected"]
    assert before and len(trained) == 3 and {record.state for record in trained} == {"complete"}
    assert {record.number: record for record in records if record.number in before} == before
    assert len({record.key for record in trained}) == 3
    for record in trained:
        assert record.objectives.keys() == {"box_ap", "num_params"} and 0 <= record.objectives["box_ap"] <= 1
        assert record.evaluations[-1]["figures"] == {"box_ap": record.objectives["box_ap"]}
        assert [row["epoch"] for row in record.curve] == [1, 2]
        assert record.curve[-1]["box_ap"] == record.objectives["box_ap"] and record.num_validation == 0
        assert Genotype.from_dict(record.genotype).key == record.key == SPACE.decode(record.params).key


def test_report_and_page_speak_of_box_ap(searched, monkeypatch, capsys):
    folder, _ = searched
    found = report(folder, "results/found")
    assert found["front"] and all(entry["objectives"].keys() == {"box_ap", "num_params"} for entry in found["front"])
    assert all(entry["genotype"]["dense"]["kind"] == "retinanet" for entry in found["front"])
    complete = [record for record in results(folder / "results/found") if record.state == "complete"]
    for entry in found["front"]:
        ap, params = entry["objectives"]["box_ap"], entry["objectives"]["num_params"]
        others = [record.objectives for record in complete if record.key != entry["key"]]
        assert not any(other["num_params"] < params and other["box_ap"] >= ap for other in others)
        assert entry["operators"][-2:] == [[label_of(entry, "neck")], [label_of(entry, "head")]]
    code, text, _ = ended(folder, monkeypatch, capsys, "report", "results/found")
    assert code == 0 and "stage by stage; neck; head" in text and "box AP" in text and "top-1" not in text
    key = found["front"][0]["key"]
    code, text, _ = ended(folder, monkeypatch, capsys, "profile", "results/found", "--key", key)
    lines = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert code == 0 and {"stem", "stages.0.0", "stages.2.0", "neck", "head"} <= lines, text
    for command in (["retrain", "results/found", "--key", key], ["export", "results/found", "--key", key]):
        command += ["--weights", "proxy"] if command[0] == "export" else []
        code, _, text = ended(folder, monkeypatch, capsys, *command)
        assert code == 2 and "is a retinanet" in text, text


def test_trials_train_the_same_as_alone_and_go_on_from_their_checkpoint(tmp_path):
    params = SPACE.uniform("dw3") or {}
    task = TrialTask(0, SPACE.decode(params), params, 7)
    *rows, last = run_trial(task, TrialContext(CONFIG, tmp_path / "whole", torch.device("cpu")))
    whole: TrialRecord = last["record"]
    context = TrialContext(CONFIG, tmp_path / "cut", torch.device("cpu"))
    begun = run_trial(task, context)
    first = next(begun)
    begun.close()
    *_, last = run_trial(task, context)
    assert first["box_ap"] == rows[0]["box_ap"] and last["record"].attempts == 2
    assert last["record"].num_validation == 0  # box AP is no share of pictures
    assert timeless(last["record"].curve) == timeless(whole.curve)
    assert last["record"].objectives == whole.objectives
    candidate_weights = tmp_path / "whole" / "proxy" / whole.key / "config.json"
    assert json.loads(candidate_weights.read_text())["box_ap"] == whole.objectives["box_ap"]


def test_a_published_classifier_is_no_start_of_a_search_for_detectors():
    config = loads(DETECTION.replace("seed: 3", "seed: 3, warm_start: [rednet26]"), "detection.yaml")
    with pytest.raises(
        UserError, match=r"search.warm_start: rednet26 is a classifier, the networks of space are detectors"
    ):
        check_machine(config, SPACE)
    assert PUBLISHED["rednet26"].dense is None
