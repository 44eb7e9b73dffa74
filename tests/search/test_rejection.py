"""Candidates that are certainly dominated at their optimistic bound: rejected where another trial is better even so."""

from __future__ import annotations

import pytest
from test_samplers import config_of, finished

from nas.config.sections import ObjectiveConfig
from nas.search.rejection import FEWEST, OptimisticBound
from nas.search.study import Proposal
from nas.search.trial import Rejected, check_dominated


@pytest.fixture(scope="module")
def setting():
    config, space = config_of("nsga2")
    points = [
        (block, depth, width) for block in ("basic", "bottleneck") for depth in (1, 2, 3) for width in (16, 32, 48)
    ]
    records = []
    for number, (block, depth, width) in enumerate(points):
        params = {"block": block, "depth": depth, "width": width, "operator": "conv3"}
        proposal = Proposal(number, {f"stages.0.{name}": value for name, value in params.items()})
        records.append(finished(proposal, space, config))
    return config, space, records


def test_nothing_is_promised_of_what_is_hardly_known(setting):
    _, space, records = setting
    assert OptimisticBound(space, records[: FEWEST - 1], 3.0).bound(records[0].params) == 1.0
    assert OptimisticBound(space, records, 3.0).bound(records[0].params) < 1.0


def test_more_optimism_grants_more_and_the_truth_is_within(setting):
    _, space, records = setting
    for record in records:
        granted = [OptimisticBound(space, records, deviations).bound(record.params) for deviations in (0.0, 3.0, 6.0)]
        assert granted == sorted(granted)
        assert record.objectives["top1"] <= granted[1]


def test_a_candidate_that_costs_more_than_a_better_one_is_rejected(setting):
    config, space, records = setting
    small, large = records[0], max(records, key=lambda record: record.objectives["top1"])
    dominating = OptimisticBound(space, records, 3.0).dominating(small.params, config.objectives)
    assert large.number in {other["number"] for other in dominating} and small.number not in {
        r["number"] for r in dominating
    }
    with pytest.raises(Rejected, match=r"dominated: granted top1 0\.\d+; trial \d+ has 0\.\d+ and costs no more"):
        check_dominated(dominating, config.objectives, {"num_params": large.objectives["num_params"]})
    check_dominated(dominating, config.objectives, {"num_params": small.objectives["num_params"]})
    check_dominated([], [ObjectiveConfig(name="top1")], {})
