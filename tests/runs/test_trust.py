"""What longer trainings say of a search's own: order, regret, operators that it underrates; and in words."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from helpers.run_samples import experiment, make_run, sample_record
from nas.base.errors import UserError
from nas.runs.bundle.archive import bundle, opened
from nas.runs.folder import LONGER, shared_cache
from nas.runs.reader import RunReader
from nas.runs.record import TrialRecord, read_records, write_record
from nas.runs.report import report
from nas.runs.report_text import to_text
from nas.runs.retrainings import kendall
from nas.search.audit.longer import chosen
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)


def run_with(tmp_path, accuracy, count=24):
    """A run of `count` networks, and the same trained longer to the accuracy that a function of the record gives."""
    run = make_run(tmp_path / "run", 0)
    longer = make_run(run / LONGER / "epochs-36", 0, experiment(proxy={"epochs": 36}))
    for number in range(count):
        record = sample_record(SPACE, number)
        write_record(run, record)
        write_record(longer, replace(record, objectives={"top1": accuracy(record)}, costs={}))
    return run


def pairs(run) -> tuple[list[float], list[float], list[TrialRecord]]:
    first, last = read_records(run), {record.key: record for record in read_records(run / LONGER / "epochs-36")}
    return [r.objectives["top1"] for r in first], [last[r.key].objectives["top1"] for r in first], first


def tau(one, other) -> float:
    found = kendall([(float(a), float(b)) for a, b in zip(one, other, strict=True)])
    return found["tau"] or 0.0 if found else 0.0


def noisy(record):
    return record.objectives["top1"] + 0.1 + 0.01 * np.random.default_rng(record.number).standard_normal()


def test_tau_regret_and_settings_are_those_of_the_pairs(tmp_path):
    run = run_with(tmp_path, lambda record: round(noisy(record), 2))  # some are equal
    (found,) = report(run)["proxy_trust"]
    first, last, records = pairs(run)
    assert found["num_networks"] == 24 and found["settings"] == {"epochs": 36} and found["num_failed"] == 0
    assert found["tau"]["tau"] == pytest.approx(tau(first, last))
    macs = [record.costs["num_macs"] for record in records]
    assert found["counted"]["num_macs"]["tau"] == pytest.approx(tau(macs, last))
    top = np.argsort(first)[::-1][:5]
    assert found["regret"] == pytest.approx(max(last) - max(last[at] for at in top))
    draws = np.random.default_rng(1).integers(0, 24, (300, 24))
    by_scipy = [tau(np.array(first)[at], np.array(last)[at]) for at in draws]
    assert found["tau"]["low"] == pytest.approx(np.percentile(by_scipy, 2.5), abs=0.06)
    assert found["tau"]["high"] == pytest.approx(np.percentile(by_scipy, 97.5), abs=0.04)


def test_verdicts_and_their_words(tmp_path):
    for name, accuracy, verdict in (
        ("same", lambda record: record.objectives["top1"] + 0.1, "trusted"),
        ("counts", lambda record: record.costs["num_macs"] / 1e12, "no better than counting MACs"),
        ("weak", lambda record: noisy(record) + 0.03 * np.random.default_rng(record.number + 99).standard_normal(), ""),
    ):
        (tmp_path / name).mkdir()
        found = report(run_with(tmp_path / name, accuracy))
        (one,), text = found["proxy_trust"], to_text(found)
        assert one["verdict"].startswith(verdict) and not (name == "weak" and one["verdict"].startswith("trusted"))
        assert (
            f"the search's training is {one['verdict']}" in " ".join(text.split())
            and "Trained longer (epochs 36), 24 networks:" in text
        )
        assert "the best of all is among its first 5" in text or "below the best of all" in text


def test_an_operator_that_the_search_underrates_is_found(tmp_path):
    def accuracy(record):
        blocks = [block["operator"]["op"] for stage in record.genotype["stages"] for block in stage]
        return record.objectives["top1"] + 0.1 * blocks.count("gnconv") / len(blocks)

    run = run_with(tmp_path, accuracy, 40)
    (found,) = report(run)["proxy_trust"]
    bias = found["bias"]
    assert bias["gn3"]["change"] > 0.05 > bias["gn3"]["margin"]
    assert all(one["change"] < 0.01 for label, one in bias.items() if label != "gn3")
    assert "less the mean: " in to_text(report(run)) and f"gn3 +{100 * bias['gn3']['change']:.1f}" in to_text(
        report(run)
    )


def test_few_networks_tell_nothing_and_failed_ones_are_counted(tmp_path):
    run = run_with(tmp_path, noisy, 7)
    failed = sample_record(SPACE, 90, "failed", error="non_finite_loss: epoch 2")
    write_record(run / LONGER / "epochs-36", failed)
    (found,) = report(run)["proxy_trust"]
    assert found["verdict"] == "too few networks: 7 of at least 8" and found["num_failed"] == 1
    assert "7 networks, 1 failed:\n  too few networks: 7 of at least 8" in to_text(report(run))


def test_longer_trainings_go_with_the_bundle_and_share_the_images(tmp_path):
    run = run_with(tmp_path, noisy)
    before = report(run)["proxy_trust"]
    with opened(bundle(run, tmp_path / "run.zip")) as (folder, manifest):
        assert report(folder)["proxy_trust"] == before == manifest["claims"]["proxy_trust"]
    assert shared_cache(run / LONGER / "epochs-36") == shared_cache(run)
    assert json.loads(json.dumps(before)) == before
    assert len(RunReader(run).refresh().rows) == 24, "they are no trials of the run"


def test_networks_that_are_trained_longer_are_spread_over_cost_and_operators(tmp_path):
    run = RunReader(run_with(tmp_path, noisy, 60)).refresh()
    found = chosen(run, 20)
    complete = sorted(run.ordered(), key=lambda row: -row.objectives["top1"])
    assert [record.key for record in found[:5]] == [row.key for row in complete[:5]]
    others = sorted((row for row in complete[5:]), key=lambda row: row.objectives["latency_ms"])
    parts = np.array_split(np.arange(len(others)), 15)
    places = [next(at for at, row in enumerate(others) if row.key == record.key) for record in found[5:]]
    assert all(place in part for place, part in zip(places, parts, strict=True)), "one of each part by cost"
    labels = {row.key: [label for stage in row.operators for label in stage] for row in complete}
    used = Counter(label for record in found[:5] for label in labels[record.key])
    for record, part in zip(found[5:], parts, strict=True):
        often = {others[at].key: np.mean([used[label] for label in labels[others[at].key]]) for at in part}
        assert often[record.key] == min(often.values()), "of its part the one whose operators were chosen least"
        used.update(labels[record.key])
    assert len(chosen(run, 3)) == 3
    with pytest.raises(UserError, match="60 networks were trained to the end; --networks allows as many at most"):
        chosen(run, 61)
