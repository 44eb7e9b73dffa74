"""The entry `evaluator` in all its forms, what it changes elsewhere in the file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.config.document import ConfigError
from nas.config.reading import dump, load, load_experiment, loads

FILE = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"


@pytest.mark.parametrize(
    "given, names, figure",
    [
        ("train", ["train"], "top1"),
        ("zero_cost", ["zero_cost"], "zero_cost"),
        ("{name: zero_cost, score: snip}", ["zero_cost"], "zero_cost"),
        ("[zero_cost, train]", ["zero_cost", "train"], "top1"),
        ("{name: supernet, epochs: 60, paths: 8}", ["supernet"], "supernet"),
        ("[zero_cost, supernet, train]", ["zero_cost", "supernet", "train"], "top1"),
        ("[{name: zero_cost, keep: 0.3}, {name: train}]", ["zero_cost", "train"], "top1"),
    ],
)
def test_every_form_is_read_and_what_judges_stands_in_the_place_of_top1(given, names, figure):
    config, space = load_experiment(FILE, [f"evaluator={given}"])
    assert [stage.name for stage in config.evaluators] == names
    assert [objective.name for objective in config.objectives] == [figure, "latency_ms"]
    assert config.objectives[0].maximize and config.trains == (names[-1] == "train")
    assert any("learning_rate" in name for name in space.choices()) == config.trains
    assert loads(dump(config), "resolved.yaml") == config


def test_settings_have_defaults():
    (stage,) = load(FILE, ["evaluator=zero_cost"]).evaluators
    assert (stage.score_name, stage.share_kept, stage.num_trained_first) == ("grad_norm", 0.5, 16)
    assert load(FILE).evaluators[0].name == "train"


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            ["evaluator=zero"],
            "evaluator: 'zero' is not allowed; allowed: 'train', 'zero_cost' or 'supernet' or",
        ),
        (["evaluator={name: zero_cost, scor: snip}"], "evaluator.scor: unknown key; did you mean 'score'?"),
        (
            ["evaluator={name: zero_cost, score: luck}"],
            "evaluator.score: 'luck' is not allowed; allowed: 'grad_norm'",
        ),
        (["evaluator={name: train, score: snip}"], "evaluator.score: 'snip': is for zero_cost, train has none"),
        (["evaluator={name: train, paths: 2}"], "evaluator.paths: 2: is for supernet, train has none"),
        (["evaluator=[{name: zero_cost, keep: 1.5}, train]"], "evaluator.0.keep: 1.5 is not allowed; allowed: below 1"),
        (["evaluator={score: snip}"], "evaluator.name: missing; evaluator needs 'name'"),
        (["evaluator=[]"], "evaluator: is empty; at least one entry is needed"),
        (
            ["evaluator=[train, zero_cost]"],
            "evaluator: train comes last: after a training nothing is left for",
        ),
        (["evaluator=[zero_cost, zero_cost]"], "evaluator: an evaluator is named twice"),
        (["evaluator=[zero_cost, 'a:b']"], "evaluator: a:b is the last of a list, which must be train: a filter is"),
        (["evaluator=[zero_cost, {name: train, keep: 0.5}]"], "evaluator: keep and trained_first are for filters, and"),
        (
            ["evaluator=zero_cost", "search.scheduler=mo_asha"],
            "search.scheduler: 'mo_asha': stops trainings, and",
        ),
        (["evaluator=zero_cost", "search.reference={top1: 0.5}"], "search.reference: top1 is no objective of the file"),
        (
            ["objectives.0.name=zero_cost"],
            "objectives: zero_cost is not what evaluator train says of a network",
        ),
        (["evaluator=there_is_none:x"], "evaluator: 'there_is_none:x': there is no module 'there_is_none' beside the"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(settings, message):
    with pytest.raises(ConfigError) as problem:
        load_experiment(FILE, settings)
    assert message in str(problem.value)
