"""When the scores of a filter are believed: by the trainings of the run, and by the scores themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from helpers.run_samples import experiment, make_run, sample_record
from nas.runs.findings.filters import Scored, looked_at, meaningless, told_by_operators, verdict
from nas.runs.reader import RunReader
from nas.runs.record import write_record
from nas.runs.report import report
from nas.runs.report_text import to_text
from nas.space.search_space import SearchSpace

Figure = Callable[[int], float | None]
OPERATORS = [("conv3",), ("inv7",), ("conv3", "inv7")]


def scored(count: int, score: Figure = float, top1: Figure = float) -> list[Scored]:
    return [Scored(score(n), OPERATORS[n % 3], top1(n)) for n in range(count)]


@pytest.mark.parametrize("known, count", [(0, 0), (15, 0), (16, 16), (31, 16), (32, 32), (63, 32), (64, 64)])
def test_it_is_looked_at_after_twice_as_many(known, count):
    assert looked_at(known, 16) == count


def test_a_filter_is_believed_where_the_whole_interval_is_above_zero():
    assert verdict(scored(15), 16) is None
    good = verdict(scored(16, score=lambda n: n + 5.0 * (n % 2)), 16)
    assert good is not None and good.rejects and "Kendall's tau 0." in good.reason
    chance = verdict(scored(16, score=lambda n: float(n * 7 % 16)), 16)
    assert chance is not None and not chance.rejects and " between -" in chance.reason
    backwards = verdict(scored(16, score=lambda n: -n), 16)
    assert backwards is not None and not backwards.rejects
    # what came after a look counts at the next one
    assert verdict([*scored(16), *scored(15, score=lambda n: -n)], 16) == verdict(scored(16), 16)


def test_scores_that_rank_no_networks_are_found_out():
    assert meaningless(scored(16)) is None
    assert meaningless(scored(16, score=lambda n: 1.0)) == "it is the same for 16 networks"
    some = scored(16, score=lambda n: float(n) if n < 8 else None)
    assert meaningless(some) == "it is no number for 8 of 16 networks"

    def by_share(number: int) -> float:
        return (0, 2, 1)[number % 3] + number / 1000

    by_operator = meaningless(scored(16, score=by_share))
    assert by_operator is not None and "follows from which operators a network has" in by_operator
    found = verdict(scored(16, score=by_share, top1=by_share), 16)
    assert found is not None and not found.rejects  # though it ranks them as they trained


def test_the_share_of_operators_is_that_of_a_linear_model():
    one = told_by_operators([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [["a"], ["a"], ["a"], ["b"], ["b"], ["b"]])
    assert one == pytest.approx(1 - (4 / 4) / (17.5 / 5))
    assert told_by_operators([1.0, 2.0, 3.0], [["a"], ["b"], ["a"]]) is None
    assert told_by_operators([1.0, 2.0, 3.0, 4.0], [["a"]] * 4) is None


def test_the_report_has_who_judged_and_what_it_took(tmp_path):
    """Of 20 scored networks 16 are trained; a record of an earlier version, without evaluations, was trained."""
    config = experiment(evaluator=["zero_cost", "train"], search={"num_trials": 16})
    run, space = make_run(tmp_path / "run", 0, config), SearchSpace(config.space)
    for number in range(20):
        record = sample_record(space, number)
        top1 = record.objectives["top1"]
        said = {"evaluator": "zero_cost", "score": "grad_norm", "figures": {"zero_cost": 10 * top1}}
        judged = [said | {"seconds": 3.0, "epochs": 0}]
        if number % 5 == 4:
            judged[0]["rejected"] = "zero_cost: ..."
            record = replace(record, state="rejected", error="zero_cost: ...", objectives={}, curve=[])
        else:
            judged.append({"evaluator": "train", "figures": {"top1": top1}, "seconds": 60.0, "epochs": 12})
        write_record(run, replace(record, evaluations=judged))
    found = report(run)
    assert found["evaluators"] == [
        {
            **{"evaluator": "zero_cost", "score": "grad_norm", "networks": 20, "seconds": 60.0, "epochs": 0},
            **{"rejected": 4, "saved_epochs": 48.0, "saved_seconds": 240.0},
        },
        {"evaluator": "train", "networks": 16, "seconds": 960.0, "epochs": 192},
    ]
    assert found["num_trainings"] == 16 and found["rejections"] == {"zero_cost": 4}
    (scores,) = found["scores"]
    assert scores["tau"]["tau"] == 1 and scores["verdict"]["count"] == 16 and scores["verdict"]["rejects"]
    assert scores["counted"]["num_macs"]["count"] == 16
    text = to_text(found)
    assert "judged by zero_cost (grad_norm): 20 networks in 1.0 min; 4 rejected, which saved about 48 epochs" in text
    assert "judged by train: 16 networks, 192 epochs, in 16.0 min" in text
    write_record(run, sample_record(space, 20))
    old = RunReader(run).refresh().rows[20]
    assert list(old.judged) == ["train"] and old.ended["epochs"] == len(sample_record(space, 20).curve) > 0
