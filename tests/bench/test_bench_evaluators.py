"""How cheap judgements rank the networks of a table."""

from __future__ import annotations

import json

import pytest

from helpers.tables import write_table
from nas.base.errors import UserError
from nas.bench import evaluators
from nas.measure.zero_cost import SCORES


def test_scores_are_compared_with_trainings_and_the_comparison_goes_on(tmp_path):
    table = write_table(tmp_path / "table.jsonl")
    out = tmp_path / "evaluators.json"
    first = evaluators.bench(out, table, most=12)
    assert first == json.loads(out.read_text(encoding="utf-8")) and len(first["scores"]) == 12
    second = evaluators.bench(out, table, most=14)
    assert len(second["scores"]) == 14 and second["scores"].items() >= first["scores"].items()
    found = second["tau"]["all"]
    assert (
        found["epochs_9"]["tau"] == 1 and found["num_macs"]["count"] == 14
    )  # its accuracies are in order at any epoch
    assert set(found) >= {*SCORES, "mean_rank", "epochs_1"} and len(second["tau"]) == 11
    assert "epochs_8" in evaluators.to_text(second)
    with pytest.raises(
        UserError, match=r"evaluators.json: scores of something else than \{'table': 'table.jsonl', 'seed'"
    ):
        evaluators.bench(out, table, seed=1)
